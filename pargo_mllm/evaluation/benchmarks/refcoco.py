"""RefCOCO, RefCOCO+ and RefCOCOg: the box of what a sentence describes.

Official files: ``refcoco/refs(unc).p`` with ``refcoco/instances.json``, and the same of ``refcoco+`` and ``refcocog``
(``refs(umd).p``), or MDETR's ``finetune_refcoco_val.json`` and its kin; pictures of COCO's train2014. The splits that are
evaluated are read; ``train`` is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pargo_mllm.data.frames import FRAMES, Box, Size, from_xywh, read_box, write_box
from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Item, Mark, Prediction, Rule, ScoringError, accuracy
from pargo_mllm.evaluation.reading.answers import carried, numbered
from pargo_mllm.evaluation.reading.records import IDS, Pictures, identity, records, rows_with_pictures
from pargo_mllm.evaluation.reading.refer_files import PICKLES, box_of, mdetr, mdetr_files, official, size_of
from pargo_mllm.evaluation.reading.rows import Row, found
from pargo_mllm.evaluation.scorers.boxes import RIGHT, Pair, better_frame, overlap
from pargo_mllm.evaluation.writing.submissions import as_number, asked, json_list

_ASKED = "Please provide the bounding box coordinate of the region this sentence describes: "
# as VLMEvalKit's one table names the splits
_SPLITS = {"refcoco": "RefCOCO_", "refcoco+": "RefCOCO+_", "refcocog": "RefCOCOg_"}
_SAID = ("extracted_answer", "prediction", "pred", "text", "model_output", "response", "pred_bbox")
_BOXES = ("ground_truth", "gt_bbox", "solution", "gt", "bbox")
_CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def read(name: str, data: Path) -> list[Item]:
    """The sentences of the official files, of VLMEvalKit's table, of the hub's parquet, or of lines with ``bbox`` as Qwen-VL
    and Shikra write them. Boxes are in pixels."""
    folder = data / name if (data / name).is_dir() else data
    splits = mdetr_files(folder, name)
    if splits and not any((folder / pickle).is_file() for pickle in PICKLES):
        # each split may count anew
        return numbered(mdetr(splits, data))
    file = found(folder, *PICKLES, "*.tsv", "*.parquet", "*.jsonl", "*.json")
    if file.suffix == ".p":
        return official(file, data)
    rows, pictures = rows_with_pictures(data, records(file))
    here = [row for row in rows if str(row.first("split") or "").startswith(_SPLITS[name])]
    return numbered(item for number, row in enumerate(here or rows) for item in _items(row, number, pictures))


def predictions(path: Path) -> list[Prediction]:
    """Rows with an id and a text, and the files of VLM-R1 (``ground_truth`` and ``extracted_answer``, in pixels) and Qwen-VL
    (``gt_bbox``, ``hw`` and ``answer``), which have the right boxes."""
    return carried(_said(row, number) for number, row in enumerate(records(path), start=1))


def _items(row: Row, number: int, pictures: Pictures) -> list[Item]:
    """One for each sentence; the hub has those of a box in one row."""
    sentence = next((key for key in ("sent", "expression", "problem", "normal_caption") if row.first(key) is not None), None)
    sentences = row.first("answer")
    if sentence is None and isinstance(sentences, (list, tuple)) and row.first("bbox") is not None:
        box, sentences = from_xywh(box_of(row.first("bbox"), row.where)), [str(one) for one in sentences]
    else:
        box, sentences = _right_box(row, "bbox", "solution", "answer"), [row.text(sentence or "question")]
    name = row.first("img_path", "image_path")
    shown = pictures.of(row, name if isinstance(name, str) else "")
    own, size, split = identity(row, otherwise=number), size_of(row), _split(row)
    # VLMEvalKit counts each split's sentences anew, and names them so
    own = f"{split}_{own}" if split.startswith("RefCOCO") else own
    return [
        Item(
            id=f"{own}/{place}" if len(sentences) > 1 else own,
            question=_sentence(text),
            answer=box,
            part=_part(split),
            details={"size": size} if size else {},
            **shown,
        )
        for place, text in enumerate(sentences)
    ]


def _split(row: Row) -> str:
    split = row.first("split")
    return split if isinstance(split, str) else ""


def _part(split: str) -> str:
    """ "val" of VLMEvalKit's "RefCOCO_val"."""
    return split.rsplit("_", 1)[-1]


def _right_box(row: Row, *names: str) -> Box:
    corners = [row.first(corner) for corner in _CORNERS]
    return box_of(row.first(*names) if None in corners else corners, row.where)


def _sentence(question: str) -> str:
    return question.removeprefix(_ASKED).removesuffix(".")


def _said(row: Row, number: int) -> Prediction:
    own = [name for name in _SAID if row.first(name) is not None] or [name for name in _SAID if name in row.values]
    own = own or (["answer"] if "answer" in row.values else ["bbox"])
    value = row.first(*own)
    text = json.dumps(value) if isinstance(value, (list, tuple)) else row.answer(*own)
    picture = row.first("image", "image_path", "img_path")
    named = isinstance(picture, str) and len(picture) < 256
    question = row.first("question", "prompt", "sent")
    if isinstance(question, str):
        # a full stop may be the sentence's own; among those on its picture one is found with it and without
        question = question.removeprefix(_ASKED) if named else _sentence(question)
    else:
        question = None
    item, right = None, [name for name in _BOXES if name not in own]
    if row.first(*right, *_CORNERS) is not None:
        size = size_of(row)
        item = Item(
            identity(row, otherwise=number),
            question or "",
            _right_box(row, *right),
            part=_part(_split(row)),
            details={"size": size} if size else {},
        )
    ids = ("sent_id", *IDS)
    given = identity(row, *ids) if row.first(*ids) is not None else None
    return Prediction(text, row.where, given, picture if named else None, question, item)


def _marks(frame: str, answered: Sequence[Answered]) -> list[Mark]:
    sizes: dict[str, Size] = {}
    marks = []
    for one in answered:
        if one.item.answer is None:
            raise ScoringError(f"The sentence {one.item.id!r} has no box in the answers' file.")
        pair = Pair(read_box(one.text), one.item.answer, _size(one.item, sizes))
        if frame != "pixels" and pair.size is None:
            raise ScoringError(
                f"{one.where}: boxes in the frame {frame} need the picture's size, which nothing tells here; give --answers "
                "with the benchmark's own files, or --frame pixels if that is theirs."
            )
        value = float(overlap(pair, frame) >= RIGHT)
        read = write_box(pair.said) if pair.said else "no box"
        marks.append(Mark(one.item, one.text, value, read, {"pair": pair}))
    return marks


def _size(item: Item, sizes: dict[str, Size]) -> Size | None:
    """The picture's, as the files tell it, else of the picture itself."""
    if "size" in item.details or not item.pictures:
        return item.details.get("size")
    if item.picture not in sizes:
        sizes[item.picture] = item.pictures[0]().size
    return sizes[item.picture]


def _figures(frame: str, marks: Sequence[Mark]) -> dict[str, Any]:
    """``accuracy``, the share of boxes whose IoU with the right one is 0.5 or more, by split in ``parts``; ``frame``;
    ``unread``, how many texts had no box; ``better_frame``, where another one fits much better."""
    better = better_frame([mark.extra["pair"] for mark in marks], frame)
    figures = {**accuracy(marks), "frame": frame, "unread": sum(mark.extra["pair"].said is None for mark in marks)}
    return {**figures, "better_frame": better} if better else figures


def _entry(one: Prediction) -> dict[str, Any]:
    item = asked(one)
    size = item.details.get("size")
    right: Mapping[str, Any] = {"gt_bbox": list(item.answer)} if item.answer else {}
    return {
        "id": as_number(item.id),
        "question": item.question,
        **({"split": item.part} if item.part else {}),
        **right,
        **({"hw": [size[1], size[0]]} if size else {}),
        "answer": one.text,
    }


def _rules() -> tuple[Rule, ...]:
    return tuple(Rule(frame, partial(_marks, frame), partial(_figures, frame)) for frame in FRAMES)


def _benchmark(name: str, title: str) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        prompt=_ASKED + "{question}",
        read=partial(read, name),
        predictions=predictions,
        rules=_rules(),
        submission=json_list(f"{name}_predictions.json", _entry),
        max_new_tokens=48,
    )


ALL = (_benchmark("refcoco", "RefCOCO"), _benchmark("refcoco+", "RefCOCO+"), _benchmark("refcocog", "RefCOCOg"))
