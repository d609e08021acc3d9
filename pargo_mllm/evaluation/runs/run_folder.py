"""The folder of an evaluation: what was run, the figures, what every answer is worth, and some of the wrong ones.

``run.json`` says how it came about, ``result.json`` holds the figures, ``marks.jsonl`` one answer a line, ``failures.json`` the
pictures of wrong answers, which lie in ``failures/``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pargo_mllm.data.corpus import shown
from pargo_mllm.data.sources.opening import leads_inside, leads_out
from pargo_mllm.evaluation.benchmark import EvaluationError, Item, Mark
from pargo_mllm.evaluation.reading.json_files import json_records, json_value
from pargo_mllm.files import whole_file

RUN, RESULT, MARKS, FAILURES = "run.json", "result.json", "marks.jsonl", "failures.json"
# lists and objects in each other
_MOST_DEEP = 32
_TEXTS = ("picture", "part", "question", "asked", "said", "read", "where")


@dataclass(frozen=True)
class Failure:
    """A wrong answer with what can be seen of it.

    Args:
        picture, attention: files; None where there is none.
        reason: why there is none.
    """

    id: str
    picture: Path | None = None
    attention: Path | None = None
    reason: str = ""


@dataclass(frozen=True)
class Run:
    """An evaluation as its folder has it.

    Args:
        name: what a report calls it.
        about: of ``run.json``.
        asked: the whole prompt, by id.
    """

    folder: Path
    name: str
    about: dict[str, Any]
    result: dict[str, Any]
    marks: list[Mark]
    asked: dict[str, str] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    @property
    def benchmark(self) -> str:
        """The benchmark's name."""
        return self.result["benchmark"]

    @property
    def rule(self) -> str:
        """The rule's name."""
        return self.result["rule"]


def write_marks(folder: Path, marks: Sequence[Mark], asked: Callable[[Item], str]) -> Path:
    """Write ``marks.jsonl``, an answer a line: ``id``, ``picture``, ``part``, ``question``, ``asked``, ``answer``, ``said``,
    ``read``, ``value`` (0...1) and ``where``; ``extra`` and ``details``, where they are JSON, for figures to be computed again.

    Args:
        asked: the whole prompt of a question.
    """
    with whole_file(folder / MARKS) as aside, open(aside, "w", encoding="utf-8") as file:
        for mark in marks:
            item = mark.item
            line = {
                "id": item.id,
                "picture": item.picture,
                "part": item.part,
                "question": item.question,
                "asked": asked(item),
                "answer": item.answer,
                "said": mark.text,
                "read": mark.read,
                "value": mark.value,
                "where": mark.where,
            }
            line |= {name: dict(kept) for name, kept in (("extra", mark.extra), ("details", item.details)) if _is_json(kept)}
            # what a benchmark holds as its answer is its own affair
            file.write(json.dumps(line, default=str) + "\n")
    return folder / MARKS


def read_run(folder: str | os.PathLike) -> Run:
    """Read an evaluation.

    Raises:
        EvaluationError: for a folder that is not whole; it names the file, the line and what is wrong.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise EvaluationError(f"{folder} is no folder; give what pargo eval --out or pargo score --out wrote.")
    about, result = _object(folder / RUN), _object(folder / RESULT)
    for name in ("benchmark", "rule"):
        if not isinstance(result.get(name), str):
            raise EvaluationError(f"{folder / RESULT} names no {name}: it was not written by pargo eval or pargo score.")
        if about.get(name) != result[name]:
            raise EvaluationError(
                f"{folder / RUN} says {name} {_told(about.get(name))} and {RESULT} beside it {_told(result[name])}: they are "
                "not of one run; run it again."
            )
    marks, asked = _read_marks(folder / MARKS)
    if result.get("questions") != len(marks):
        raise EvaluationError(
            f"{folder / MARKS} has {len(marks):,} answers and {RESULT} beside it says {_told(result.get('questions'))} "
            "questions: one of them is half written, or of another run; run it again."
        )
    known = {mark.item.id for mark in marks}
    return Run(folder, folder.resolve().name, about, result, marks, asked, _read_failures(folder, known))


def _read_marks(file: Path) -> tuple[list[Mark], dict[str, str]]:
    marks, asked = [], {}
    for number, found in json_records(file):
        where = f"{file}, line {number}"
        _checked(found, where)
        if not isinstance(found, dict) or not isinstance(found.get("id"), str):
            raise EvaluationError(f"{where}: it is no answer with an id; the file is damaged: run it again.")
        texts = {name: found.get(name, "") for name in _TEXTS}
        wrong = next((name for name, text in texts.items() if not isinstance(text, str)), None)
        if wrong is not None:
            raise EvaluationError(f"{where}: it has {wrong} {_told(found[wrong])}; it must be a text.")
        value = found.get("value")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise EvaluationError(f"{where}: it has the value {_told(value)}; it must be a number from 0 to 1.")
        if found["id"] in asked:
            raise EvaluationError(f"{where}: it has the id {_told(found['id'])}, which another line has too.")
        extra, details = (kept if isinstance(kept := found.get(name), dict) else {} for name in ("extra", "details"))
        item = Item(found["id"], texts["question"], found.get("answer"), texts["picture"], texts["part"], details=details)
        marks.append(Mark(item, texts["said"], float(value), texts["read"], extra, texts["where"]))
        asked[item.id] = texts["asked"]
    if not marks:
        raise EvaluationError(f"{file} is empty; run it again.")
    return marks, asked


def _read_failures(folder: Path, known: set[str]) -> list[Failure]:
    file = folder / FAILURES
    if not os.path.lexists(file):
        return []
    entries = _checked(json_value(file), str(file))
    if not isinstance(entries, list):
        raise EvaluationError(f"{file} holds no list of failures.")
    failures = []
    for entry in entries:
        id = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(id, str) or id not in known:
            raise EvaluationError(f"{file} tells of {_told(id)}, which is no answer of {MARKS} beside it.")
        reason = entry.get("reason", "")
        picture, attention = (_picture(folder, file, entry.get(name)) for name in ("picture", "attention"))
        failures.append(Failure(id, picture, attention, reason if isinstance(reason, str) else ""))
    return failures


def _picture(folder: Path, file: Path, name: Any) -> Path | None:
    if name is None:
        return None
    if not isinstance(name, str) or not leads_inside(name):
        raise EvaluationError(f"{file} names {_told(name)}; it must be a file of the folder itself.")
    path = folder / name
    # a link would carry a stranger's file into the page
    if leads_out(folder, path):
        raise EvaluationError(f"{file} names {_told(name)}, which leads out of the folder.")
    if not path.is_file():
        raise EvaluationError(f"{file} names {_told(name)}, which is not there; the folder is not whole.")
    return path


def _object(file: Path) -> dict[str, Any]:
    content = _checked(json_value(file), str(file))
    if not isinstance(content, dict):
        raise EvaluationError(f"{file} holds no object of names and values.")
    return content


def _checked(value: Any, where: str) -> Any:
    """What a report writes again as it is."""
    try:
        _check(value)
    except ValueError as error:
        raise EvaluationError(f"{where}: {error}; the file is damaged: run it again.") from error
    return value


def _check(value: Any, deep: int = 0) -> None:
    if deep > _MOST_DEEP:
        raise ValueError(f"it is nested more than {_MOST_DEEP} deep")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it holds a number that is not finite")
    for inside in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check(inside, deep + 1)


def _is_json(kept: Any) -> bool:
    """Whether it comes back as it was, but for tuples, which become lists: what a figure would misread is not written."""
    try:
        return bool(kept) and json.loads(json.dumps(dict(kept), allow_nan=False)) == _listed(kept)
    except (TypeError, ValueError, RecursionError):
        return False


def _listed(kept: Any) -> Any:
    if isinstance(kept, Mapping):
        return {key: _listed(value) for key, value in kept.items()}
    return [_listed(value) for value in kept] if isinstance(kept, (list, tuple)) else kept


def _told(value: Any) -> str:
    return shown(repr(value), 80)
