"""What an evaluation leaves: a folder for ``pargo report``, and a table for a person."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Benchmark, EvaluationError, Item, ScoringError
from pargo_mllm.evaluation.reading.rows import read_json
from pargo_mllm.evaluation.runs.run_folder import RESULT, RUN, write_marks
from pargo_mllm.evaluation.scoring import Scored
from pargo_mllm.files import write_whole

# figures that are points as their benchmark publishes them; those that are neither points nor shares
POINTS = ("perception", "cognition", "subtasks", "score", "by_capability", "by_capability_set", "runs", "spread")
PLAIN = ("cider", "bleu1", "bleu2", "bleu3", "bleu4", "rouge_l")
# of a result, what says how it came about
_ABOUT = ("benchmark", "rule", "versions")
_NOT_SHOWN = (*_ABOUT, "questions", "joined_by", "details")


def write_outcome(folder: Path, run: Mapping[str, Any], scored: Scored, asked: Callable[[Item], str]) -> None:
    """Write ``run.json``, ``marks.jsonl`` and ``result.json``, each whole or not at all, the result last.

    Args:
        folder: made where it is absent; what else lies in it stays.
        run: how it came about; ``benchmark``, ``rule`` and ``versions`` are taken from the result where they are not in it.
        asked: of a question, what a model is asked; :meth:`pargo_mllm.evaluation.benchmark.Benchmark.asked`.

    Raises:
        EvaluationError: if it cannot be written.
    """
    about = {key: scored.result[key] for key in _ABOUT}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RUN, _json({**about, **run}, indent=2))
        write_marks(folder, scored.marks, asked)
        write_whole(folder / RESULT, _json(scored.result, indent=2))
    except OSError as error:
        raise EvaluationError(f"{folder} cannot be written: {error.strerror or error}.") from error


def check_new(folder: Path) -> None:
    """Refuse a folder that holds something: a run, perhaps, whose model a file of predictions does not know.

    Raises:
        EvaluationError: naming it.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise EvaluationError(f"--out {folder} is there already; give one that is absent or empty.")


def predictions_of(path: Path, benchmark: str) -> Path:
    """The predictions of a run, which its ``run.json`` names; any other file or folder is taken as it is.

    Raises:
        ScoringError: for a run that names none, and for one of another benchmark.
    """
    if not path.exists():
        raise ScoringError(f"{path} is not there.")
    told = path / RUN
    if not told.is_file():
        return path
    run = read_json(told)
    if not isinstance(run, dict) or not isinstance(run.get("predictions"), str):
        raise ScoringError(f"{told} names no predictions; give their file instead of the run.")
    if run.get("benchmark") not in (None, benchmark):
        raise ScoringError(f"{told} is a run of {run['benchmark']}, not of {benchmark}.")
    return path / run["predictions"]


def shown(benchmark: Benchmark, result: Mapping[str, Any]) -> str:
    """A result as lines for a person, a figure each with its unit; without ``details`` and what has no value."""
    figures = [(key, value) for key, value in result.items() if key not in _NOT_SHOWN]
    lines = list(_lines(figures, "  "))
    width = max((len(name) for name, _, _ in lines), default=0)
    before = max((len(number) for _, number, _ in lines), default=0)
    joined = f", joined by {result['joined_by']}" if "joined_by" in result else ""
    head = f"{benchmark.title}, rule {result['rule']}: {result['questions']:,} questions{joined}"
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    rows = (f"{name:<{width}}  {number:>{before}}{unit}".rstrip() for name, number, unit in lines)
    return "\n".join([head, *rows, f"with {versions}"])


def _lines(figures: Iterable[tuple[str, Any]], indent: str, unit: str | None = None) -> Iterator[tuple[str, str, str]]:
    """Of each figure its name, its digits up to the point, and what stands behind them."""
    for key, value in figures:
        kind = unit if unit is not None else " points" if key in POINTS else "" if key in PLAIN else " %"
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}", "", ""
            yield from _lines(value.items(), indent + "  ", kind)
        elif isinstance(value, (list, tuple)) and value:
            for one in value:
                yield from _lines([(key, one)], indent, kind)
        elif isinstance(value, float):
            whole, _, rest = f"{value * 100 if kind == ' %' else value:,.4f}".partition(".")
            yield f"{indent}{key}", whole, f".{rest}{kind}"
        elif isinstance(value, int):
            yield f"{indent}{key}", f"{value:,}", ""
        elif isinstance(value, str):
            yield f"{indent}{key}", "", value


def _json(value: Any, indent: int | None = None) -> str:
    # what a benchmark holds as its answer is its own affair
    return json.dumps(value, ensure_ascii=False, indent=indent, default=str)
