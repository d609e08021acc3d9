"""``pargo report``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path


def add_parser(commands) -> None:
    """Add the command."""
    report = commands.add_parser(
        "report",
        help="figures of evaluations with their errors, side by side, and what went wrong",
        description="Tell of one or several evaluations on one page and in one JSON file: figures with standard errors "
        "clustered by picture, parts, differences paired by question (each run against the first one of its benchmark), how "
        "many questions a difference takes, and wrong answers with their pictures.",
    )
    report.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="folders that pargo eval --out or pargo score --out wrote"
    )
    report.add_argument(
        "--out", type=Path, default=Path("pargo-report.html"), metavar="FILE.html", help="the page (default: pargo-report.html)"
    )
    report.add_argument(
        "--json", type=Path, metavar="FILE", help="the figures (default: beside the page, with the ending .json)"
    )
    report.add_argument(
        "--difference",
        type=_difference,
        metavar="D",
        help="say how many questions it takes to see a difference of D, in the unit of the benchmark's figure (0.01 of an "
        "accuracy, 10 of MME's points)",
    )
    report.set_defaults(module="pargo_mllm.commands.report")


def _difference(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a number above 0")
    return value
