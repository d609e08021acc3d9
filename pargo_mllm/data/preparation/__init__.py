"""Official files of data sets, made into one well-described format.

::

    OUT/data.json     a LLaVA list, a record a line
    OUT/images/…      its pictures
    OUT/about.json    what it was made of, how, and what became of every entry

or, as shards, ``OUT/000000.tar``, ``000001.tar``, … with ``about.json`` beside them. A record is ``{"id", "image",
"conversations"}``; one whose texts hold boxes has ``"frame"`` (of :data:`pargo_mllm.data.frames.FRAMES`) and the
picture's ``"width"`` and ``"height"``, upright, beside them. :func:`pargo_mllm.data.open_corpus.open_corpus` reads both.

A set is a file of :mod:`pargo_mllm.data.preparation.sets`: it reads official files and says what is asked and answered about
which picture. Everything else (pictures, pieces, processes, restarts, counts) is in :mod:`pargo_mllm.data.preparation.run`.
"""
