"""Captions of pictures, COCO's or any others', against those of people.

Official file: ``captions_val2014.json``, ``{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}``.
References may as well be text files, ``ref1.txt``, ``ref2.txt``, …, which stand for each other: a line of each is a picture's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Item, Mark, Prediction, Rule, ScoringError, mean
from pargo_mllm.evaluation.reading.answers import answers_of, carried, right, said_in_words, texts
from pargo_mllm.evaluation.reading.records import LISTS, Pictures, identity, records, rows_with_pictures
from pargo_mllm.evaluation.reading.rows import Row, found, read_json, read_lines, read_rows, rows_of
from pargo_mllm.evaluation.scorers.captions import TOKENIZERS, score
from pargo_mllm.evaluation.writing.submissions import as_number, asked, json_list

_NUMBERED = re.compile(r"(?P<stem>.*ref[a-z]*[._-]?)\d+", re.IGNORECASE)
_COCO = re.compile(r"(?:.*/)?(?:COCO_\w+_)?0*(\d+)(?:\.jpg)?")
_IDS = ("image_id", "question_id", "id", "index")
_SAID = ("caption", "prediction", "text", "response", "pred")


def read(data: Path) -> list[Item]:
    """Pictures with their captions: of the official file, a map from picture to captions, text files, VLMEvalKit's table or the
    hub's parquet."""
    file = found(data, "captions_*.json", "ref*.txt", "*.tsv", "*.parquet", "*.json") if _numbered(data) is None else data
    if file.suffix == ".txt" or _numbered(data) is not None:
        return _of_lines(_numbered(data) or [file])
    if file.suffix == ".json":
        value = read_json(file)
        if isinstance(value, Mapping) and isinstance(value.get("annotations"), list):
            return _official(value, file, data)
        if isinstance(value, Mapping):
            return _of_map(value.get("references", value), file)
    rows, pictures = rows_with_pictures(data, records(file))
    return [_item(row, pictures) for row in rows]


def predictions(path: Path) -> list[Prediction]:
    """COCO's results ``[{"image_id", "caption"}]``, LLaVA's lines, a map from picture to caption, and a text file with a
    caption a line, which has the references beside it where ``ref*.txt`` lie in its folder."""
    file = found(path, "hyp*.txt", "*results*.json", "*.json", "*.jsonl")
    if file.suffix == ".txt":
        lines = _lines(file)
        beside = _numbered(file.parent)
        items: list[Item] | list[None] = _of_lines(beside) if beside else [None] * len(lines)
        if len(items) != len(lines):
            raise ScoringError(f"{file}, line {len(lines)}: it has {len(lines)} captions, the references {len(items)}.")
        return [
            Prediction(text, f"{file}, line {number}", str(number), item=item)
            for number, (text, item) in enumerate(zip(lines, items, strict=True), start=1)
        ]
    rows = list(read_rows(file))
    if len(rows) == 1 and not any(name in rows[0].values for name in (*LISTS, *_SAID, "answer")):
        return _said_in_map(rows[0], file)
    return carried(_said(row, number) for number, row in enumerate(records(file), start=1))


def picture_id(name: str) -> str:
    """COCO's number of a picture that is named by its file; any other name as it is."""
    number = _COCO.fullmatch(name)
    return number[1] if number else name


def _said(row: Row, number: int) -> Prediction:
    one = said_in_words(row, number, _own, _SAID)
    named = picture_id(identity(row, *_IDS)) if row.first(*_IDS) is not None else None
    return Prediction(one.text, one.where, named, item=one.item)


def _own(row: Row, number: str) -> Item | None:
    captions = right(row, _SAID)
    captions = captions or texts(row, "references", "captions")
    return (
        None
        if captions is None
        else Item(picture_id(identity(row, *_IDS, otherwise=int(number) if number.isdigit() else 0)), "", captions)
    )


def _said_in_map(row: Row, file: Path) -> list[Prediction]:
    """``{picture: caption}``, or ``{"candidates": {...}, "references": {...}}``."""
    names = ("candidates", "hypotheses", "predictions")
    nested = (Row(value, row.where).first(*names) for value in row.values.values() if isinstance(value, Mapping))
    told = row.first(*names) or next((value for value in nested if value is not None), row.values)
    references = row.first("references")
    items = {item.id: item for item in _of_map(references, file)} if isinstance(references, Mapping) else {}
    if not isinstance(told, Mapping):
        raise ScoringError(f"{file}, line 1: it holds no captions.")
    kept = []
    for name, value in told.items():
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not isinstance(value, str):
            raise ScoringError(f"{file}, {name!r}: it is no caption: {str(value)[:80]}.")
        number = picture_id(name)
        kept.append(Prediction(value, f"{file}, {name!r}", number, item=items.get(number)))
    return kept


def _official(value: Mapping[str, Any], file: Path, data: Path) -> list[Item]:
    pictures = Pictures(data)
    names = {identity(row, "id"): row for row in rows_of(value.get("images", []), f"{file}, 'images'")}
    captions: dict[str, list[str]] = {}
    for row in rows_of(value["annotations"], f"{file}, 'annotations'"):
        captions.setdefault(identity(row, "image_id"), []).append(row.text("caption"))
    items = []
    for number, some in captions.items():
        name = names[number].first("file_name") if number in names else None
        items.append(
            Item(picture_id(number), "", some, **(pictures.named(name) if isinstance(name, str) else {"picture": number}))
        )
    return items


def _of_map(value: Any, file: Path) -> list[Item]:
    if not isinstance(value, Mapping):
        raise ScoringError(f"{file}, line 1: it holds no captions of pictures.")
    items = []
    for name, captions in value.items():
        row = Row({"captions": captions}, f"{file}, {name!r}")
        items.append(Item(picture_id(name), "", texts(row, "captions"), picture=name))
    return items


def _item(row: Row, pictures: Pictures) -> Item:
    name = row.first("file_name", "question_id", "image_path")
    named = name if isinstance(name, str) and "." in name else ""
    return Item(
        id=picture_id(identity(row, *_IDS)),
        question="",
        answer=texts(row, "captions", "answers", "answer", "caption"),
        **pictures.of(row, named),
    )


def _numbered(data: Path) -> list[Path] | None:
    """Reference files that belong together: those of a folder, or those beside one that differ from it in their number."""
    if data.is_dir():
        files = sorted(data.glob("ref*.txt"), key=lambda file: (len(file.name), file.name))
        return files or None
    named = _NUMBERED.fullmatch(data.stem)
    if data.suffix != ".txt" or named is None:
        return None
    beside = (file for file in data.parent.glob("*.txt") if _NUMBERED.fullmatch(file.stem))
    files = [file for file in beside if _NUMBERED.fullmatch(file.stem)["stem"] == named["stem"]]  # type: ignore[index]
    return sorted(files, key=lambda file: (len(file.name), file.name))


def _lines(file: Path) -> list[str]:
    lines = read_lines(file)
    # the end of the last line
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _of_lines(files: Sequence[Path]) -> list[Item]:
    columns = [_lines(file) for file in files]
    short = next((file for file, lines in zip(files, columns, strict=True) if len(lines) != len(columns[0])), None)
    if short is not None:
        raise ScoringError(f"{short}: it has {len(_lines(short))} captions, and {files[0]} has {len(columns[0])}.")
    return [Item(str(number), "", list(some)) for number, some in enumerate(zip(*columns, strict=True), start=1)]


def _marks(tokenizer: str, answered: Sequence[Answered]) -> list[Mark]:
    scores = score([one.text for one in answered], [answers_of(one.item) for one in answered], tokenizer)
    # CIDEr lies in 0...10, and what an answer is worth in 0...1
    return [
        Mark(one.item, one.text, cider / 10, extra={"cider": cider, "rouge_l": rouge})
        for one, cider, rouge in zip(answered, scores.each_cider, scores.each_rouge_l, strict=True)
    ]


def _figures(tokenizer: str, marks: Sequence[Mark]) -> dict[str, Any]:
    """``cider`` (0...10), ``bleu1`` to ``bleu4`` and ``rouge_l`` (0...1), of so many ``pictures``, cut by ``tokenizer``.

    A picture's own CIDEr is that among all that were marked together: what is common is told by all of them.
    """
    scores = score([mark.text for mark in marks], [answers_of(mark.item) for mark in marks], tokenizer)
    bleu = {f"bleu{length}": value for length, value in enumerate(scores.bleu, start=1)}
    cider, rouge = (mean(mark.extra[name] for mark in marks) for name in ("cider", "rouge_l"))
    return {"cider": cider, **bleu, "rouge_l": rouge, "pictures": len(marks), "tokenizer": tokenizer}


ALL = (
    Benchmark(
        name="caption",
        title="Captions",
        prompt="Provide a one-sentence caption for the provided image.",
        read=read,
        predictions=predictions,
        rules=tuple(Rule(name, partial(_marks, name), partial(_figures, name)) for name in TOKENIZERS),
        submission=json_list("captions_results.json", lambda one: {"image_id": as_number(asked(one).id), "caption": one.text}),
        headline="cider",
        max_new_tokens=48,
    ),
)
