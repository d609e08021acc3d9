"""Pairs of picture and text are kept where they fit each other, by models that were trained to tell.

Models of CLIP's and BLIP's kind compare a picture with each sentence of the answers about it; what they say is kept as
parquet beside the data, so that a threshold is changed without computing anything again::

    OUT/scores-NAME.parquet      of each model, every record's scores, sentence by sentence
    OUT/histogram-NAME.png       with the threshold
    OUT/data.json, OUT/images/…  what is kept; or shards, as the input was
    OUT/dropped.jsonl            what is not, by which model and for which sentence
    OUT/about.json               thresholds, counts, models: written last

:mod:`~pargo_mllm.filtering.run` does it from beginning to end; a kind of model is in :mod:`~pargo_mllm.filtering.models`.
"""
