"""What ``pargo score`` and ``pargo eval`` both say of grades and of the judge that gives them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pargo_cli.values import positive

# asked only where --judge names a model
OPENAI_URL = "https://api.openai.com/v1"
_ADDRESS = "--judge-url"
# options that are addresses of endpoints, also of other commands
_ADDRESSES = (_ADDRESS, "--endpoint")


def add_judge_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--grades`` and ``--judge…``; :func:`pargo_mllm.evaluation.judging.grading.graded` takes what was parsed."""
    group = parser.add_argument_group(
        "grades", "of benchmarks whose answers a judge model grades; nothing is asked without --judge"
    )
    group.add_argument(
        "--grades", type=Path, metavar="FILE", help="grades that are there already; they are not asked for again"
    )
    group.add_argument(
        "--judge", metavar="MODEL", help="ask this model, as the endpoint names it; the API key is taken from OPENAI_API_KEY"
    )
    group.add_argument(_ADDRESS, default=OPENAI_URL, metavar="URL", help="an OpenAI-compatible endpoint (default: %(default)s)")
    group.add_argument(
        "--judge-runs", type=positive, default=1, metavar="N", help="grade everything so many times (default: %(default)s)"
    )
    group.add_argument(
        "--judge-cache",
        type=Path,
        metavar="FILE",
        help="an SQLite file that keeps what the judge said (default: judge.sqlite in pargo's cache)",
    )
    group.add_argument(
        "--judge-concurrency", type=positive, default=8, metavar="N", help="requests at a time (default: %(default)s)"
    )


def without_secrets(words: Sequence[str]) -> list[str]:
    """The words of a command as they may be written down: an endpoint's address without its query; hidden where it has an "@".

    The parsers that have the option take no abbreviations of it.
    """
    kept: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        flag, equals, address = (
            word.partition("=") if word.startswith(tuple(f"{one}=" for one in _ADDRESSES)) else ("", "", word)
        )
        if equals or before in _ADDRESSES:
            address = "…" if "@" in address else address.partition("?")[0].partition("#")[0]
        kept.append(f"{flag}{equals}{address}")
    return kept
