"""Predictions in the formats in which benchmarks take them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Item, Prediction, ScoringError
from pargo_mllm.files import whole_file

Record = Callable[[Prediction], Mapping[str, Any]]
Submission = Callable[[Sequence[Prediction], Path], Path]

_IN_ONE_LINE = str.maketrans("\n\r\0", "   ")


def json_lines(name: str, record: Record) -> Submission:
    """One JSON object a line, into the folder's file of that name."""

    def write(predictions: Sequence[Prediction], folder: Path) -> Path:
        return write_lines(map(record, predictions), folder / name)

    return write


def json_list(name: str, record: Record) -> Submission:
    """One JSON list of objects, into the folder's file of that name."""

    def write(predictions: Sequence[Prediction], folder: Path) -> Path:
        return write_json([record(one) for one in predictions], folder / name)

    return write


def write_lines(values: Iterable[Any], file: Path) -> Path:
    """JSON, one value a line. Returns the file."""
    return write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), file)


def write_json(value: Any, file: Path) -> Path:
    """One JSON value. Returns the file."""
    return write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", file)


def write_text(text: str, file: Path) -> Path:
    """A text, whole or not at all; half of a character, which a JSON escape can bring in and UTF-8 cannot hold, becomes "?".

    Returns the file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as aside:
        aside.write_bytes(text.encode("utf-8", "replace"))
    return file


def in_one_line(text: str) -> str:
    """A text that a file of lines can hold: each line end is a space, and so is each zero byte."""
    return text.replace("\r\n", " ").translate(_IN_ONE_LINE)


def as_number(text: str) -> int | str:
    """An id as its benchmark writes it: a number where it is one."""
    return int(text) if re.fullmatch(r"0|[1-9][0-9]{0,17}", text) else text


def asked(prediction: Prediction) -> Item:
    """The question that a prediction answers.

    Raises:
        ScoringError: if it has none: formats that hold the question cannot be written without.
    """
    if prediction.item is None:
        raise ScoringError(f"{prediction.where}: without its question it cannot be written in the benchmark's format.")
    return prediction.item
