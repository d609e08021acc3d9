"""Questions and predictions in rows, as the benchmarks' authors, VLMEvalKit, LLaVA and the hub write them: what all share."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Item, Prediction, ScoringError
from pargo_mllm.evaluation.reading.rows import Row, read_json, read_rows, rows_of
from pargo_mllm.evaluation.reading.set_pictures import PictureFolder
from pargo_mllm.evaluation.reading.shelf import Held, Shelf

IDS = ("question_id", "questionId", "id", "index")
# what a model said goes by these names; "answer" is none of them, for most files have the right answer under it
SAID = ("prediction", "predict", "text", "model_output", "response", "pred", "model_prediction", "output")
# lists of records that stand in an object
LISTS = ("data", "items", "questions", "annotations", "results", "predictions")

_PICTURE = ("image_source", "image_path", "image", "imgname", "image_id")
# of VLMEvalKit's tables: what is shorter is no picture but the index of the row that has it
_SHORTEST_PICTURE = 64
_LONGEST_NAME = 256
_ENDING = re.compile(r"\.\w{3,4}\Z")
_IMAGE_MARK = re.compile(r"<image>\s*|\s*<image>")
_LONGEST_LIST = 100_000


def records(file: Path) -> Iterator[Row]:
    """The records of a file: its rows, or those of the one list, or object of objects by id, that a JSON object holds."""
    rows = read_rows(file)
    first = list(islice(rows, 2))
    yield from _inside(first[0], file) if len(first) == 1 and not first[0].table else chain(first, rows)


def _inside(row: Row, file: Path) -> list[Row]:
    values = row.values
    name = next((name for name in LISTS if isinstance(values.get(name), list)), None)
    if name is not None:
        return rows_of(values[name], f"{file}, {name!r}")
    if values and all(isinstance(value, dict) for value in values.values()):
        # GQA's questions
        return [Row({"id": key, **value}, f"{file}, {key!r}") for key, value in values.items()]
    return [row]


def json_whole(file: Path) -> Any:
    """The one JSON value of a file, for formats that are an object; None where it holds something else, as lines."""
    try:
        return read_json(file) if file.suffix.lower() == ".json" else None
    except ScoringError:
        return None


def identity(row: Row, *names: str, otherwise: int | None = None) -> str:
    """An id as text; of a number without a fraction, as sheets have it, without its ".0".

    Args:
        names: that it goes by; :data:`IDS` where none is given.
        otherwise: what stands for it where the row has none.

    Raises:
        ScoringError: if the row has none.
    """
    names = names or IDS
    if otherwise is not None and row.first(*names) is None:
        return str(otherwise)
    text = row.text(*names)
    return text.removesuffix(".0") if isinstance(row.first(*names), float) else text


def text_or_empty(row: Row, *names: str) -> str:
    """What a row says under one of these names, as its part or its hint; empty where it says nothing."""
    said = row.text(*names) if row.first(*names) is not None else ""
    # pandas' blank, which the hub's files have as a text
    return "" if said.strip().lower() == "nan" else said


def written_list(text: str) -> list[Any] | None:
    """A list that a table holds as a text, as Python or JSON writes it; None where it is none."""
    if len(text) > _LONGEST_LIST:
        return None
    for read in (ast.literal_eval, json.loads):
        try:
            value = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list):
            return value
    return None


class Pictures:
    """The pictures of a benchmark: of its folder, by name, or held by its rows.

    Args:
        data: the folder, or a file in it.
        shelf: what keeps those of the rows.
    """

    def __init__(self, data: Path, shelf: Shelf | None = None):
        self.folder = PictureFolder(data)
        self._shelf = shelf or Shelf()
        # in VLMEvalKit's tables a row may name another whose picture it shows
        self._by_index: dict[str, Held] = {}

    def taken(self, row: Row) -> Row:
        """The same row without the picture that it holds in its column ``image``, which is kept here."""
        if "image" not in row.values:
            return row
        held = row.values["image"]
        kept = [self._kept(one, row.where) for one in (held if isinstance(held, (list, tuple)) else [held])]
        image = kept[0] if len(kept) == 1 else kept or None
        if isinstance(image, Held) and row.first("index") is not None:
            self._by_index[identity(row, "index")] = image
        return replace(row, values={**row.values, "image": image})

    def _kept(self, held: Any, where: str) -> Any:
        return held if held is None or isinstance(held, Held) or _is_name(held) else self._shelf.keep(held, where)

    def named(self, name: str) -> dict[str, Any]:
        """What an item says of the picture of that name in the folder."""
        return {"picture": name, "pictures": (self.folder.opens(name),)}

    def of(self, row: Row, name: str = "") -> dict[str, Any]:
        """What an item says of the picture of a row: the one that it holds in ``image``, or that of the row whose index stands
        there; else the folder's that is named by ``image_path``, by ``name`` or in ``image``. Nothing where it has none.

        Args:
            name: of the picture, where the row says it elsewhere; else it is told apart by ``image_path``, or what it holds.

        Raises:
            ScoringError: for a row that holds several.
        """
        held, path = self.taken(row).first("image"), row.first("image_path")
        if isinstance(held, list):
            raise ScoringError(f"{row.where}: it holds {len(held)} pictures, and a question here has one.")
        held = self._by_index.get(held, held) if isinstance(held, str) else held
        path = path if isinstance(path, str) else ""
        if isinstance(held, Held):
            return {"picture": name or path or held.key, "pictures": (held.opens,)}
        file = path or name or held
        return {"picture": name or file, "pictures": (self.folder.opens(file),)} if file else {}


def _is_name(held: Any) -> bool:
    """Whether it is an index or a file's name, no picture."""
    return isinstance(held, str) and (len(held) <= _SHORTEST_PICTURE or _ENDING.search(held[-5:]) is not None)


def rows_with_pictures(data: Path, rows: Iterable[Row]) -> tuple[list[Row], Pictures]:
    """Rows as they are read, and their pictures, which are none of the rows any more."""
    pictures = Pictures(data)
    return [pictures.taken(row) for row in rows], pictures


def plain_question(prompt: str) -> str:
    """A question as its benchmark states it, of a prompt: without the mark of the picture and without LLaVA's instructions."""
    prompt = _IMAGE_MARK.sub("", prompt)
    for instruction in (
        "Answer the question using a single word or phrase.",
        "Answer with the option's letter from the given choices directly.",
    ):
        prompt = prompt.removesuffix(instruction).rstrip()
    return prompt


def said(
    row: Row,
    *names: str,
    ids: Sequence[str] = ("question_id", "index", "id"),
    item: Item | None = None,
    **known: Any,
) -> Prediction:
    """A prediction of a row.

    Args:
        names: of what the model said; :data:`SAID` where none is named.
        ids: what its id goes by; it may have none.
        item: the question, where the row has the right answer.
        known: other fields of the prediction; the question is else the row's ``question``, ``prompt`` or ``query``, and the
            picture what it names in ``image`` and the like.

    Raises:
        ScoringError: if the row has no answer, or one that is no text.
    """
    question = row.first("question", "prompt", "query")
    found = {
        "id": identity(row, *ids) if row.first(*ids) is not None else None,
        "picture": _picture_name(row),
        "question": plain_question(question) if isinstance(question, str) else None,
    }
    return Prediction(text=row.answer(*(names or SAID)), where=row.where, item=item, **{**found, **known})


def _picture_name(row: Row) -> str | None:
    name = row.first(*_PICTURE)
    # a longer text is a picture itself
    named = 0 < len(name) < _LONGEST_NAME if isinstance(name, str) else isinstance(name, int) and not isinstance(name, bool)
    return identity(row, *_PICTURE) if named else None
