"""Questions with answers in words, and predictions of them, in rows as their authors, VLMEvalKit, LLaVA and the hub write them:
what those share."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Item, Prediction, ScoringError
from pargo_mllm.evaluation.reading.rows import PictureFolder, Row, held_picture, read_rows, rows_of

SHORT = "{question}\nAnswer the question using a single word or phrase."

# what a model said goes by these names; where a row has none of them, "answer" is what it said
SAID = ("prediction", "predict", "text", "model_output", "response", "pred", "output", "caption")
# what is right, beside one of those; "answer" is among them where a row has what was said under another name
RIGHT = ("answers", "annotation", "ground_truth", "gt_answers", "gt_answer", "gt_ans", "gt", "label", "target")
IDS = ("question_id", "questionId", "id", "index")
# lists of records that stand in an object
LISTS = ("data", "items", "questions", "annotations", "results", "predictions")
# of VLMEvalKit's tables: what is shorter is no picture but the index of the row that has it
_SHORTEST_PICTURE = 64
# a list as a table writes it
_LIST = re.compile(r"\s*\[.*\]\s*", re.DOTALL)
_LONGEST_LIST = 100_000


def records(file: Path) -> list[Row]:
    """The records of a file: its rows, or those of the one list, or object of objects by id, that a JSON object holds."""
    rows = list(read_rows(file))
    if len(rows) != 1 or rows[0].table:
        return rows
    values = rows[0].values
    name = next((name for name in LISTS if isinstance(values.get(name), list)), None)
    if name is not None:
        return rows_of(values[name], f"{file}, {name!r}")
    if values and all(isinstance(value, dict) for value in values.values()):
        # GQA's questions
        return [Row({"id": key, **value}, f"{file}, {key!r}") for key, value in values.items()]
    return rows


def identity(row: Row, number: int | None = None, names: Sequence[str] = IDS) -> str:
    """An id as text; of a number without a fraction, as sheets have it, without its ".0".

    Args:
        number: what stands for it where the row has none.

    Raises:
        ScoringError: if the row has none.
    """
    if number is not None and row.first(*names) is None:
        return str(number)
    text = row.text(*names)
    return text.removesuffix(".0") if isinstance(row.first(*names), float) else text


def texts(row: Row, *names: str) -> list[str] | None:
    """Answers: a text or number, a list of them, objects with ``answer`` (VQA), or such a list as a table writes it; None where
    the row has none.

    Raises:
        ScoringError: for anything else, and an empty list.
    """
    value = row.first(*names)
    if value is None:
        return None
    if isinstance(value, str) and row.table and _LIST.fullmatch(value):
        value = _written(value)
    if not isinstance(value, (list, tuple)):
        return [row.text(*names)]
    listed = [entry.get("answer") if isinstance(entry, Mapping) else entry for entry in value]
    if not listed or not all(_is_text(entry) for entry in listed):
        name = next(name for name in names if row.first(name) is not None)
        raise ScoringError(f"{row.where}: {name!r} is no list of texts, with one or more: {str(value)[:80]}.")
    return [entry if isinstance(entry, str) else str(entry) for entry in listed]


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _written(text: str) -> Any:
    """A list that a table holds, as Python or JSON writes it; the text itself where it is none."""
    if len(text) > _LONGEST_LIST:
        return text
    for read in (ast.literal_eval, json.loads):
        try:
            value = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and value and all(map(_is_text, value)):
            return value
    return text


class Pictures:
    """The pictures of a file's rows: of a folder, by name, or held by the rows themselves.

    Args:
        data: the folder of the benchmark, or the file.
        rows: all of the file, for in VLMEvalKit's tables a row may name another whose picture it shows.
    """

    def __init__(self, data: Path, rows: Sequence[Row] = ()):
        self.folder = PictureFolder(data)
        self._held = {identity(row, 0): row.values["image"] for row in rows if isinstance(row.values.get("image"), str)}

    def named(self, name: str) -> dict[str, Any]:
        """What an item says of the picture of that name in the folder."""
        return {"picture": name, "pictures": (self.folder.opens(name),)}

    def of(self, row: Row, name: str = "") -> dict[str, Any]:
        """What an item says of the picture that a row holds in ``image``, or names in ``image_path``; else of that name in the
        folder, and nothing where there is none."""
        held = row.first("image")
        if isinstance(held, (list, tuple)):
            if len(held) != 1:
                raise ScoringError(f"{row.where}: it holds {len(held)} pictures, and a question here has one.")
            held = held[0]
        if isinstance(held, str) and len(held) <= _SHORTEST_PICTURE:
            other = self._held.get(held)
            if other is None or len(other) <= _SHORTEST_PICTURE:
                return self.named(name or held)
            held = other
        if held is not None and not (isinstance(held, str) and re.search(r"\.\w{3,4}\Z", held)):
            key, opens = held_picture(held, row.where)
            return {"picture": name or key, "pictures": (opens,)}
        path = name or held or row.first("image_path")
        return self.named(path) if isinstance(path, str) else {}


def said(row: Row, number: int, item: Callable[[Row, str], Item | None], names: Sequence[str] = SAID) -> Prediction:
    """A prediction of a row.

    Args:
        number: of the row in its file, from 1.
        item: of the row and an id: the question with what is right, where the row has it.
        names: of what the model said; ``answer`` where the row has none of them.

    Raises:
        ScoringError: if the row has no answer, or one that is no text.
    """
    own = [name for name in names if name in row.values] or ["answer"]
    given = row.first(*IDS)
    question = row.first("question", "prompt", "query")
    picture = row.first("image_path", "image", "imgname", "image_id")
    return Prediction(
        text=row.answer(*own),
        where=row.where,
        id=identity(row) if given is not None else None,
        picture=identity(row, names=(_name_of(row, picture),)) if _is_name(picture) else None,
        question=question if isinstance(question, str) else None,
        item=item(row, identity(row, number)),
    )


def _name_of(row: Row, value: Any) -> str:
    return next(name for name, held in row.values.items() if held is value)


def _is_name(value: Any) -> bool:
    return (isinstance(value, str) and 0 < len(value) < 256) or (isinstance(value, int) and not isinstance(value, bool))


def right(row: Row, names: Sequence[str] = SAID) -> list[str] | None:
    """The right answers that stand beside a prediction; ``answer`` is one where the prediction has another name."""
    return texts(row, *RIGHT, *(("answer",) if any(name in row.values for name in names) else ()))


def numbered(items: Iterable[Item]) -> list[Item]:
    """Items with their own ids, or with their numbers from 0 where an id comes twice: some sets count anew in each part."""
    kept = list(items)
    if len({item.id for item in kept}) == len(kept):
        return kept
    return [replace(item, id=str(number)) for number, item in enumerate(kept)]


def carried(predictions: Iterable[Prediction]) -> list[Prediction]:
    """Predictions of a file, whose own questions get ids that are unique, as :func:`numbered` gives them."""
    kept = list(predictions)
    times = Counter(one.item.id for one in kept if one.item is not None)
    if all(count == 1 for count in times.values()):
        return kept
    return [
        one if one.item is None else replace(one, item=replace(one.item, id=str(number))) for number, one in enumerate(kept)
    ]


def answers_of(item: Item) -> list[str]:
    """What is right.

    Raises:
        ScoringError: if it is not published.
    """
    if not item.answer:
        raise ScoringError(f"The question {item.id!r} has no right answer: its split may keep them secret.")
    return item.answer


def as_number(text: str) -> int | str:
    """An id as its benchmark writes it: a number where it is one."""
    return int(text) if re.fullmatch(r"0|[1-9][0-9]{0,17}", text) else text


def answered(predictions: Iterable[Prediction]) -> Iterator[tuple[Item, str]]:
    """The questions with what was said to them.

    Raises:
        ScoringError: if a prediction does not know its question.
    """
    for one in predictions:
        if one.item is None:
            raise ScoringError(f"{one.where}: without its question it cannot be written in the benchmark's format.")
        yield one.item, one.text


def submission(name: str, entry: Callable[[Item, str], Any]) -> Callable[[Sequence[Prediction], Path], Path]:
    """What writes a JSON list, of an entry for each question and what was said to it, into the folder's file of that name."""

    def write(predictions: Sequence[Prediction], folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps([entry(item, said) for item, said in answered(predictions)], ensure_ascii=False, indent=1)
        # half characters, which JSON's escapes can bring in, are no UTF-8
        (folder / name).write_bytes((text + "\n").encode("utf-8", "replace"))
        return folder / name

    return write
