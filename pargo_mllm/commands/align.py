"""``pargo align``."""

from __future__ import annotations

import argparse
import json
import sys
import warnings

import transformers

from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.looking import Source
from pargo_mllm.alignment.one_model import Asked
from pargo_mllm.alignment.run import Settings, align
from pargo_mllm.alignment.telling import lines
from pargo_mllm.alignment.writing import check_places, write
from pargo_mllm.data.corpus import shown
from pargo_mllm.loading import chosen_device


def run(options: argparse.Namespace) -> None:
    """Look at the models, and say what was found."""
    warnings.showwarning = lambda message, *_: print(f"pargo align: {shown(str(message))}", file=sys.stderr)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    check_places(options.html, options.out)
    source = Source(
        data=options.data,
        split=options.split,
        held_out=options.held_out,
        image_root=options.image_root,
        patch_labels=options.patch_labels,
        pictures=options.pictures,
        seed=options.seed,
    )
    asked = Asked(options.close, options.num_words or Asked.words, options.non_negative, batch_size=options.batch_size)
    parts = None if options.only is None else tuple(dict.fromkeys(options.only))
    for name, is_given in (("--num-words", options.num_words is not None), ("--non-negative", options.non_negative)):
        if is_given and parts is not None and "words" not in parts:
            raise AlignmentError(f"{name} is of the part words, and --only asks for {', '.join(parts)}: leave it out.")
    settings = Settings(tuple(options.models), source, asked, parts, chosen_device(options.device), options.dtype)
    outcome = align(settings)
    outcome.told["command"] = options.words
    try:
        write(outcome, options.html, options.out)
    except OSError as error:
        raise AlignmentError(f"{error.filename or options.out}: {error.strerror or error}.") from error
    print(json.dumps(outcome.told, allow_nan=False) if options.json else lines(outcome.told))
