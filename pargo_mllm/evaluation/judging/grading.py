"""Answers that a judge model grades: what is graded already is not asked for, and what is missing is never a zero."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pargo_mllm.endpoint import Answer, Endpoint, Request
from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Grades, Item, Rule, ScoringError
from pargo_mllm.files import default_cache


@dataclass(frozen=True)
class Judge:
    """How a judge model is asked about an answer.

    Args:
        prompt: what it is asked.
        read: the grade in what it says; None where there is none.
        lacks: what it needs to know of a question and the question does not say, in words; empty where it says all.
        temperatures: of the first try, and of those after it, each made where the one before gave no grade.
        again: what stands behind the prompt from the second try on.
        asks: whether an answer needs it at all.
        once: whether it says a thing that has no mean, so that several runs are none.
    """

    prompt: Callable[[Answered], str]
    read: Callable[[str, Item], Any]
    lacks: Callable[[Item], str]
    temperatures: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0)
    again: str = ""
    asks: Callable[[Answered], bool] = lambda answered: True
    once: bool = False


def graded(
    benchmark: Benchmark, rule: Rule, answered: Sequence[Answered], options: argparse.Namespace, predictions: Path | None = None
) -> tuple[list[Answered], dict[str, Any]]:
    """Answers with their grades: those of a file, then those that were kept, then those that the judge gives.

    Call it for every rule, between joining and scoring: a rule that asks no judge gets its answers back as they are.

    Args:
        options: of :func:`pargo_cli.judge_options.add_judge_options`.
        predictions: their file, where there is one; it may be a file of grades itself.

    Returns:
        ``(answered, about)``; ``about`` is what the result says of it, for :func:`pargo_mllm.evaluation.scoring.score`:
        ``judge``, the judge's name, and ``grades``, how many there are and where they are from. Empty where there are none.

    Raises:
        ScoringError: for grades that are missing (how many, which first, how to go on), for ``--judge`` or ``--grades`` where
            the rule asks no judge, and for a file of grades that cannot be read.
        EndpointError: if the endpoint cannot be asked at all.
    """
    judge: Judge | None = rule.judge
    if judge is None:
        _refuse_options(benchmark, rule, options)
        return list(answered), {}
    held = _held(benchmark, options.grades, predictions)
    wanted = [one for one in answered if judge.asks(one)]
    runs = max([len(grades) for grades in held.by_id.values()], default=0)
    if options.judge is not None:
        runs = max(runs, options.judge_runs)
    if runs > 1 and judge.once:
        raise ScoringError(f"--judge-runs {runs}: of {benchmark.name} a judge is asked once, for what it says has no mean.")
    if not runs and not rule.needs_grades:
        return list(answered), {}
    table = _Table(wanted, held, max(runs, 1))
    from_file = table.count()
    names = list(held.judges) if from_file else []
    if options.judge is not None and table.missing():
        names += [name for name in _asked(table, judge, benchmark, options) if name not in names]
    if missing := table.missing():
        raise ScoringError(_told_missing(table, missing, benchmark, options))
    counts = {"from_file": from_file, "from_judge": table.count() - from_file, "unused": table.unused(answered)}
    about = {"judge": ", ".join(names) or None, "grades": {"runs": table.runs, **counts}}
    return [replace(one, grades=tuple(table.of.get(one.item.id, ()))) for one in answered], about


class _Table:
    """The grades of the answers that want some: by item id, one a run, None where it is missing."""

    def __init__(self, wanted: Sequence[Answered], held: Grades, runs: int):
        self.wanted = {one.item.id: one for one in wanted}
        self.held, self.runs = held, runs
        self.of = {id: [*held.by_id.get(id, ()), *[None] * runs][:runs] for id in self.wanted}
        # of those that were asked for and not got
        self.why: dict[tuple[str, int], str] = {}

    def missing(self) -> list[tuple[str, int]]:
        return [(id, run) for id, grades in self.of.items() for run, grade in enumerate(grades) if grade is None]

    def count(self) -> int:
        return len(self.of) * self.runs - len(self.missing())

    def unused(self, answered: Sequence[Answered]) -> int:
        """How many questions of the file of grades were not answered."""
        return len(set(self.held.by_id) - {one.item.id for one in answered})


def endpoint_of(options: argparse.Namespace) -> Endpoint:
    """Where ``--judge`` is asked; nothing is sent.

    Raises:
        EndpointError: for an address that is none, and without httpx.
    """
    return Endpoint(options.judge_url, options.judge, options.judge_cache or _cache(), concurrency=options.judge_concurrency)


def _held(benchmark: Benchmark, grades: Path | None, predictions: Path | None) -> Grades:
    if grades is not None and benchmark.grades is None:
        raise ScoringError(f"--grades: of {benchmark.name} no files of grades are read; give --judge.")
    file = grades or predictions
    held = benchmark.grades(file) if benchmark.grades is not None and file is not None else Grades()
    if grades is not None and not held.by_id:
        raise ScoringError(f"{grades}: it holds no grades; it may be a file of predictions.")
    return held


def _refuse_options(benchmark: Benchmark, rule: Rule, options: argparse.Namespace) -> None:
    for name, value in (("--judge", options.judge), ("--grades", options.grades)):
        if value is not None:
            raise ScoringError(f"{name} {value}: {benchmark.name} by the rule {rule.name} asks no judge.")


def _asked(table: _Table, judge: Judge, benchmark: Benchmark, options: argparse.Namespace) -> list[str]:
    """Ask for what is missing. Returns the judge's name; behind it in brackets what the endpoint calls it, where it differs."""
    endpoint = endpoint_of(options)
    pending = table.missing()
    for id in dict.fromkeys(id for id, _ in pending):
        if lacks := judge.lacks(table.wanted[id].item):
            raise ScoringError(
                f"{table.wanted[id].where}: a judge needs {lacks} of {id!r}, which is not here: give the benchmark's file as "
                "--answers."
            )
    called: dict[str, None] = {}
    for number, temperature in enumerate(judge.temperatures):
        behind = judge.again if number else ""
        requests = [
            Request([{"role": "user", "content": judge.prompt(table.wanted[id]) + behind}], {"temperature": temperature}, run)
            for id, run in pending
        ]
        title = f"{options.judge} grades {benchmark.title}" + (f", try {number + 1}" if number else "")
        unread = []
        for (id, run), said in zip(pending, endpoint.ask(requests, title), strict=True):
            grade = judge.read(said.text, table.wanted[id].item) if isinstance(said, Answer) else None
            table.of[id][run] = grade
            if isinstance(said, Answer):
                called[said.model] = None
                table.why[id, run] = f"it said {said.text[:80]!r}, which is no grade"
            else:
                table.why[id, run] = said.reason
            # an endpoint that failed was asked often enough; a model that said something else may say another thing
            if grade is None and (isinstance(said, Answer) or said.by_model):
                unread.append((id, run))
        pending = unread
        if not pending:
            break
    versions = [name for name in called if name not in ("", options.judge)]
    return [f"{options.judge} ({', '.join(versions)})" if versions else options.judge]


def _told_missing(table: _Table, missing: Sequence[tuple[str, int]], benchmark: Benchmark, options: argparse.Namespace) -> str:
    id, run = missing[0]
    of_run = f" in run {run + 1}" if table.runs > 1 else ""
    why = table.why.get((id, run))
    what = (
        f"{table.wanted[id].where}: {len(missing):,} of {len(table.of) * table.runs:,} grades are missing, the first is that "
        f"of {id!r}{of_run}{f': {why}' if why else ''}. {benchmark.title} has no score without all of them."
    )
    if options.judge is None:
        return f"{what} Give a file with --grades, or a judge with --judge MODEL (and --judge-url)."
    kept = options.judge_cache or _cache()
    return (
        f"{what} Run the same command again to ask for these alone, for the others are kept in {kept}; or grade them by hand, "
        "in a file for --grades."
    )


def _cache() -> Path:
    return default_cache() / "judge.sqlite"
