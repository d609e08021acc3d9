"""``pargo filter``."""

from __future__ import annotations

import argparse
import math

from pargo_cli.engine_options import add_engine_options
from pargo_cli.values import no_empty, path, positive


def add_parser(commands) -> None:
    """Add the command."""
    filter = commands.add_parser(
        "filter",
        allow_abbrev=False,
        help="keep the pairs of picture and text that fit each other",
        description="Compare each picture with every sentence that is answered about it, by models of CLIP's or BLIP's kind, "
        "and keep the pairs that no model puts below its threshold. Scores stay in OUT: the same command with another "
        "threshold computes nothing again, and one that was interrupted is gone on with.",
    )
    filter.add_argument(
        "data", type=no_empty, metavar="DATA", help="a LLaVA list, a prepared folder, shards, a COCO-style folder"
    )
    filter.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="DIR",
        help="a model's folder, or its name on a hub; NAME, below, is the last of its path. May be given again",
    )
    filter.add_argument("--out", type=path, required=True, metavar="DIR", help="for scores, what is kept and what is dropped")
    filter.add_argument("--image-root", type=path, metavar="DIR", help="where a LLaVA list has its pictures")
    rules = filter.add_argument_group("thresholds", "one for each model; a pair is dropped if one of them finds it below")
    rules.add_argument(
        "--threshold",
        dest="rules",
        action="append",
        type=_threshold,
        metavar="[NAME=]X",
        help="drop pairs with a lower score: a cosine, or for BLIP's matching head a probability",
    )
    rules.add_argument(
        "--quantile",
        dest="rules",
        action="append",
        type=_quantile,
        metavar="[NAME=]Q",
        help="drop this share of the pairs, those with the lowest scores; 0 to 1",
    )
    rules.add_argument(
        "--by", choices=("minimum", "mean"), default="minimum", help="of a text's sentences (default: %(default)s)"
    )
    rules.add_argument("--scores-only", action="store_true", help="drop nothing, write the scores")
    rules.add_argument(
        "--unjudged",
        choices=("keep", "drop"),
        default="keep",
        help="records without a picture, with several, or without a sentence (default: %(default)s)",
    )
    rules.add_argument("--even-so", action="store_true", help="drop pairs even by a model that cannot tell them apart")
    models = filter.add_argument_group("models")
    models.add_argument(
        "--measure",
        choices=("match", "cosine"),
        help="of BLIP's kind: its matching head's probability (the default) or the cosine of its halves; CLIP's has a cosine",
    )
    models.add_argument(
        "--language", default="en", metavar="CODE", help="of the texts, by whose rules sentences end (default: %(default)s)"
    )
    models.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="pictures or texts at a time (default: %(default)s)"
    )
    models.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: the GPU where there is one")
    models.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the model (default: %(default)s)"
    )
    shown = filter.add_argument_group("what is written")
    shown.add_argument("--html", type=path, metavar="FILE", help="a page of what was dropped and what was just kept")
    shown.add_argument("--copy", action="store_true", help="copy pictures (default: hard links, where the disk can)")
    shown.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    add_engine_options(filter)
    filter.set_defaults(module="pargo_mllm.commands.filter")


def _threshold(text: str) -> tuple[str, str | None, float]:
    return ("threshold", *_named(text))


def _quantile(text: str) -> tuple[str, str | None, float]:
    name, value = _named(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a share from 0 to less than 1")
    return "quantile", name, value


def _named(text: str) -> tuple[str | None, float]:
    name, equals, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} must be a number, or a model's name, = and a number")
    return name if equals else None, value
