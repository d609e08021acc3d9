"""Answers that a judge model grades: what is graded already is not asked for, and what is missing is never a zero."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Rule


def graded(
    benchmark: Benchmark, rule: Rule, answered: Sequence[Answered], options: argparse.Namespace, predictions: Path | None = None
) -> tuple[list[Answered], dict[str, Any]]:
    """Answers with their grades: those of a file, then those that were kept, then those that the judge gives.

    Call it for every rule, between joining and scoring: a rule that asks no judge gets its answers back as they are.

    Args:
        options: of :func:`pargo_cli.judge_options.add_judge_options`.
        predictions: their file, where there is one; it may be a file of grades itself.

    Returns:
        ``(answered, about)``; ``about`` is what the result says of the judge, for :func:`pargo_mllm.evaluation.scoring.score`;
        empty where none was asked.

    Raises:
        ScoringError: for grades that are missing (how many, which first, how to go on), for ``--judge`` or ``--grades`` where the
            rule asks no judge, and for a file of grades that cannot be read.
    """
    raise NotImplementedError
