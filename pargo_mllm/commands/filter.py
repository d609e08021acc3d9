"""``pargo filter``."""

from __future__ import annotations

import argparse
import sys

import torch
import transformers

from pargo_mllm.filtering.run import FilterError, Settings, as_json, filter_pairs, told
from pargo_mllm.jobs import engine_of
from pargo_mllm.loading import chosen_device


def run(options: argparse.Namespace) -> None:
    """Filter, and say what became of every record."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if bool(options.rules) == options.scores_only:
        raise FilterError("say where pairs are dropped, by --threshold or --quantile, or give --scores-only; one of them.")
    device = chosen_device(options.device)
    # several models on one GPU compute no faster than one
    processes = options.processes or (torch.cuda.device_count() if device == "cuda" else None)
    settings = Settings(
        data=options.data,
        out=options.out,
        models=tuple(options.model),
        given=tuple(options.rules or ()),
        by=options.by,
        image_root=options.image_root,
        measure=options.measure,
        language=options.language,
        batch=options.batch_size,
        device=device,
        dtype=options.dtype,
        keep_unjudged=options.unjudged == "keep",
        even_so=options.even_so,
        copy=options.copy,
        html=options.html,
    )
    try:
        outcome = filter_pairs(settings, engine_of(options.engine, processes))
    except OSError as error:
        raise FilterError(f"{error.filename or options.out}: {error.strerror or error}; what was scored is kept.") from error
    if options.json:
        print(as_json(outcome))
    else:
        print(told(outcome, options.out))
        if options.rules:
            print(f"of what is in {options.out}, about.json says what was kept, dropped.jsonl what was not", file=sys.stderr)
