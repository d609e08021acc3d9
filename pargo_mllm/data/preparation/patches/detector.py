"""What a detector found: as COCO's results, or in a plain form of our own.

::

    {"a.jpg": {"size": [640, 480], "detections": [
        {"label": "dog", "box": [12, 40, 200, 310], "frame": "pixels", "score": 0.9}]}}

``box`` is its left upper and right lower corner. ``size`` may be left out: it is the upright picture's then. ``frame`` is one
of :data:`pargo_mllm.data.frames.FRAMES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.frames import FRAMES
from pargo_mllm.data.preparation.fields import numbers
from pargo_mllm.data.preparation.patches.coco import NO_SCORE, first_mark, results
from pargo_mllm.data.preparation.patches.told import NO_NUMBERS, Told, each_once
from pargo_mllm.data.sources.json_rows import json_members
from pargo_mllm.data.sources.region_lines import NO_LABEL, read_size

NO_DETECTIONS = "pictures without a list of detections"
NO_SIZE = "detections of a picture whose size is no width and height"
NO_FRAME = f"detections whose frame is none of {', '.join(FRAMES)}"


def detections(file: Path, categories: Path | None = None) -> Iterator[Told]:
    """What was found in each picture.

    Args:
        categories: of COCO's results, see :func:`pargo_mllm.data.preparation.patches.coco.results`.

    Raises:
        CorpusError: if they are missing, or not needed.
    """
    if first_mark(file) == "[":
        if categories is None:
            raise CorpusError(
                f"{file} is a list, as COCO's results are: say what its categories are called, --categories instances.json."
            )
        return results(file, categories)
    if categories is not None:
        raise CorpusError(f"--categories says what the numbers of COCO's results mean; {file} has labels: leave it out.")
    return _plain(file)


def _plain(file: Path) -> Iterator[Told]:
    for image, value in json_members(file):
        told = value.get("detections") if isinstance(value, dict) else None
        if not isinstance(told, list):
            yield Told([NO_DETECTIONS], image)
            continue
        said = value.get("size")
        size = None if said is None else read_size(said)
        problem = NO_SIZE if said is not None and size is None else None
        yield Told(each_once(told, _region), image, size=size, problem=problem)


def _region(one: Any) -> dict[str, Any] | str:
    if not isinstance(one, dict) or "label" not in one:
        return NO_LABEL
    box = numbers(one.get("box"))
    if len(box) != 4:
        return NO_NUMBERS
    if not isinstance(one.get("frame"), str) or one["frame"] not in FRAMES:
        return NO_FRAME
    if "score" not in one:
        return NO_SCORE
    return {"labels": [one["label"]], "box": box, "frame": one["frame"], "score": one["score"]}
