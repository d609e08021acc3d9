"""Detailed captions of pictures, from an endpoint, from a provider's batches, or from a model of ours.

::

    OUT/data.json       a LLaVA list: a record a picture, as ``pargo train --data`` takes it
    OUT/images/…        the pictures
    OUT/about.json      the model, the prompt, what became of every picture, tokens and cost
    OUT/failures.jsonl  every picture without a caption, and why
    OUT/asked.json      how the asking went: requests, faults, what perhaps was paid

The way there (:mod:`.job`): names are planned (:mod:`.finding`); every picture is looked at (:mod:`.looking`), which says what
it costs; captions are got (:mod:`.by_endpoint`, :mod:`.by_batch`, :mod:`.by_model`) and kept; records are written, in the order
of the names. A rerun goes on at any of them.
"""
