"""The official files of RefCOCO and its kin: sentences in a pickle of Python 2, boxes in COCO's format; or both in one COCO
file a split, as MDETR has them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.frames import Box, Size, from_xywh, read_box
from pargo_mllm.data.sources.plain_pickle import plain_pickle
from pargo_mllm.evaluation.benchmark import Item, ScoringError
from pargo_mllm.evaluation.reading.records import Pictures
from pargo_mllm.evaluation.reading.rows import Row, found, read_json, rows_of

PICKLES = ("refs(unc).p", "refs(umd).p", "refs(google).p")
_LEFT_OUT = "train"
_SPLITS = ("val", "testA", "testB", "test")
_MDETR = re.compile(r"finetune_.+_(\w+)\.json")


def official(file: Path, data: Path) -> list[Item]:
    """A sentence each, of all splits but ``train``, with its box in pixels.

    Args:
        file: ``refs(...).p``, with ``instances.json`` beside it.
        data: the folder that pictures are looked for in.

    Raises:
        ScoringError: for files that cannot be read or do not belong together.
    """
    boxes_file = found(file.parent, "instances.json")
    coco = read_json(boxes_file)
    if not isinstance(coco, dict):
        raise ScoringError(f"{boxes_file}, line 1: it is no object with 'images' and 'annotations'.")
    images = {row.text("id"): row for row in rows_of(coco.get("images"), f"{boxes_file}, 'images'")}
    boxes = {row.text("id"): row for row in rows_of(coco.get("annotations"), f"{boxes_file}, 'annotations'")}
    pictures = Pictures(data)
    items = []
    for ref in _refs(file):
        if ref.text("split") == _LEFT_OUT:
            continue
        image, box = images.get(ref.text("image_id")), boxes.get(ref.text("ann_id"))
        if image is None or box is None:
            raise ScoringError(f"{ref.where}: {boxes_file} has no picture, or no box, of its numbers.")
        for sentence in rows_of(ref.first("sentences"), f"{ref.where}, 'sentences'"):
            items.append(
                Item(
                    id=sentence.text("sent_id"),
                    question=sentence.text("sent", "raw"),
                    answer=from_xywh(box_of(box.first("bbox"), box.where)),
                    part=ref.text("split"),
                    details={"size": size_of(image)},
                    **pictures.named(image.text("file_name")),
                )
            )
    return items


def mdetr_files(data: Path, name: str) -> list[Path]:
    """MDETR's files of the splits that are evaluated: ``data`` itself, or those of the folder; none where there are none."""
    if data.is_file():
        return [data] if _MDETR.fullmatch(data.name) else []
    files = [folder / f"finetune_{name}_{split}.json" for folder in (data, data / "mdetr_annotations") for split in _SPLITS]
    return [file for file in files if file.is_file()]


def mdetr(files: list[Path], data: Path) -> list[Item]:
    """A sentence each, the caption of an image whose one annotation has its box, in pixels.

    Args:
        files: of :func:`mdetr_files`.
        data: the folder that pictures are looked for in, or the file.

    Raises:
        ScoringError: for files that cannot be read or do not belong together.
    """
    pictures = Pictures(data)
    return [item for file in files for item in _split(file, pictures)]


def _split(file: Path, pictures: Pictures) -> Iterator[Item]:
    told, split = read_json(file), _MDETR.fullmatch(file.name)
    if not isinstance(told, dict) or split is None:
        raise ScoringError(f"{file}, line 1: it is no object with 'images' and 'annotations'.")
    boxes: dict[str, list[Row]] = {}
    for row in rows_of(told.get("annotations"), f"{file}, 'annotations'"):
        boxes.setdefault(row.text("image_id"), []).append(row)
    for image in rows_of(told.get("images"), f"{file}, 'images'"):
        own = boxes.get(image.text("id"), [])
        if len(own) != 1:
            raise ScoringError(f"{image.where}: 'annotations' has {len(own)} boxes of it; a sentence here means one.")
        yield Item(
            id=image.text("id"),
            question=image.text("caption"),
            answer=from_xywh(box_of(own[0].first("bbox"), own[0].where)),
            part=split[1],
            details={"size": size_of(image)},
            **pictures.named(image.text("file_name")),
        )


def _refs(file: Path) -> list[Row]:
    try:
        return rows_of(plain_pickle(file), str(file))
    except CorpusError as error:
        raise ScoringError(str(error)) from error


def box_of(value: Any, where: str) -> Box:
    """Four finite numbers, also as a text that holds them.

    Raises:
        ScoringError: for anything else.
    """
    if isinstance(value, str):
        value = read_box(value)
    if isinstance(value, (list, tuple)) and len(value) == 4:
        numbers = [_number(entry) for entry in value]
        if all(number is not None and math.isfinite(number) for number in numbers):
            return tuple(numbers)  # type: ignore[return-value]
    raise ScoringError(f"{where}: the right box is no list of four numbers: {str(value)[:80]}.")


def size_of(row: Row) -> Size | None:
    """The picture's width and height in pixels, of ``width`` and ``height`` or Qwen-VL's ``hw``; None where the row has none.

    Raises:
        ScoringError: for a size that is none.
    """
    told = row.first("hw")
    values = (
        [told[1], told[0]] if isinstance(told, (list, tuple)) and len(told) == 2 else [row.first("width"), row.first("height")]
    )
    if values == [None, None]:
        return None
    numbers = [_number(value) for value in values]
    if not all(number is not None and math.isfinite(number) and number > 0 for number in numbers):
        raise ScoringError(f"{row.where}: the picture's size is {values[0]} x {values[1]}.")
    return (numbers[0], numbers[1])  # type: ignore[return-value]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
