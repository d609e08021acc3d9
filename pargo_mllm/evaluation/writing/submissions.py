"""Predictions in the formats in which benchmarks take them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Prediction
from pargo_mllm.files import write_whole

Record = Callable[[Prediction], Mapping[str, Any]]
Submission = Callable[[Sequence[Prediction], Path], Path]


def json_lines(name: str, record: Record) -> Submission:
    """One JSON object a line, into the folder's file of that name."""

    def write(predictions: Sequence[Prediction], folder: Path) -> Path:
        lines = [json.dumps(record(prediction), ensure_ascii=False) for prediction in predictions]
        write_whole(folder / name, "".join(f"{line}\n" for line in lines))
        return folder / name

    return write


def json_list(name: str, record: Record) -> Submission:
    """One JSON list of objects, into the folder's file of that name."""

    def write(predictions: Sequence[Prediction], folder: Path) -> Path:
        write_whole(folder / name, json.dumps([record(one) for one in predictions], ensure_ascii=False, indent=1))
        return folder / name

    return write
