"""What ``pargo score`` and ``pargo eval`` both say of grades and of the judge that gives them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

# asked only where --judge names a model
OPENAI_URL = "https://api.openai.com/v1"


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
    group.add_argument(
        "--judge-url", default=OPENAI_URL, metavar="URL", help="an OpenAI-compatible endpoint (default: %(default)s)"
    )
    group.add_argument(
        "--judge-runs", type=_at_least_one, default=1, metavar="N", help="grade everything so many times (default: %(default)s)"
    )
    group.add_argument(
        "--judge-cache",
        type=Path,
        metavar="FILE",
        help="an SQLite file that keeps what the judge said (default: judge.sqlite in pargo's cache)",
    )
    group.add_argument(
        "--judge-concurrency", type=_at_least_one, default=8, metavar="N", help="requests at a time (default: %(default)s)"
    )


def without_secrets(words: Sequence[str]) -> list[str]:
    """The words of a command as they may be written down: of a judge's address neither a name with a password nor a query."""
    kept, before = [], ""
    for word in words:
        flag, equals, url = word.partition("=") if word.startswith("--judge-url=") else ("", "", word)
        parts = urlsplit(url) if equals or before == "--judge-url" else None
        if parts is not None and (parts.query or "@" in parts.netloc):
            url = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        kept.append(f"{flag}{equals}{url}")
        before = word
    return kept


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number
