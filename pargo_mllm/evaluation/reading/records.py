"""Questions and predictions in rows, as the benchmarks' authors, VLMEvalKit, LLaVA and the hub write them: what those share."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Item, Prediction, ScoringError
from pargo_mllm.evaluation.reading.rows import PictureFolder, Row, held_picture, read_json, read_rows

LETTER_PROMPT = "{hint}{question}\n{choices}\nAnswer with the option's letter from the given choices directly."

# what a model said goes by these names; "answer" is none of them, for most files have the right answer under it
SAID = ("prediction", "text", "response", "pred", "model_prediction", "output")

# of VLMEvalKit's tables: what is shorter is no picture but the index of the row that has it
_SHORTEST_PICTURE = 64
_LONGEST_NAME = 256
_IMAGE_MARK = re.compile(r"<image>\s*|\s*<image>")
_BLANK = ("", "nan")


class Pictures:
    """The pictures of a file's rows: of a folder, by name, or held by the rows themselves.

    Args:
        data: the folder of the benchmark, or the file.
        rows: all of the file, for in VLMEvalKit's tables a row may name another whose picture it shows.
    """

    def __init__(self, data: Path, rows: Sequence[Row] = ()):
        self.folder = PictureFolder(data)
        self._held = {str(row.first("index")): row.first("image") for row in rows if row.first("index") is not None}

    def named(self, name: str) -> dict[str, Any]:
        """What an item says of the picture of that name in the folder."""
        return {"picture": name, "pictures": (self.folder.opens(name),)}

    def of(self, row: Row, name: str = "") -> dict[str, Any]:
        """What an item says of the picture that a row holds, in its column ``image``, or names in ``image_path``; nothing where
        it has none.

        Args:
            name: of the picture, where the row says it; else it is told apart by what it holds.
        """
        held, path = row.first("image"), row.first("image_path")
        if isinstance(held, str) and len(held) <= _SHORTEST_PICTURE:
            held = self._held.get(held, held)
        if isinstance(held, (list, tuple)):
            if len(held) > 1:
                raise ScoringError(f"{row.where}: it holds {len(held)} pictures, and a question here has one.")
            held = held[0] if held else None
        if held is not None:
            key, opens = held_picture(held, row.where)
            return {"picture": name or (path if isinstance(path, str) else key), "pictures": (opens,)}
        return self.named(path) if isinstance(path, str) else {}


def rows_with_pictures(data: Path, file: Path) -> tuple[list[Row], Pictures]:
    """The rows of a table or of parquet, and their pictures."""
    rows = list(read_rows(file))
    return rows, Pictures(data, rows)


def choice_columns(row: Row) -> dict[str, str]:
    """The choices of a row by letter, from its columns ``A``, ``B``, …; blank ones are none ("nan" is pandas' blank)."""
    return lettered({letter: row.values[letter] for letter in string.ascii_uppercase if letter in row.values}, row.where)


def choice_list(values: Any, where: str) -> dict[str, str]:
    """The choices of a list by letter, from A on; blank ones are none.

    Raises:
        ScoringError: if it is no list of texts and numbers.
    """
    if isinstance(values, str):
        values = _written_list(values, where)
    if not isinstance(values, (list, tuple)) or len(values) > len(string.ascii_uppercase):
        raise ScoringError(f"{where}: its choices are no list of at most {len(string.ascii_uppercase)} texts.")
    return lettered(dict(zip(string.ascii_uppercase, values, strict=False)), where)


def lettered(values: Mapping[str, Any], where: str) -> dict[str, str]:
    """Choices as texts, without the blank ones.

    Raises:
        ScoringError: for one that is no text and no number.
    """
    for letter, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int, float))):
            raise ScoringError(f"{where}: choice {letter} is no text: {str(value)[:80]!r}.")
    texts = {letter: "" if value is None else str(value) for letter, value in values.items()}
    return {letter: text for letter, text in texts.items() if text.strip() not in _BLANK}


def right_letter(row: Row, *names: str) -> str | None:
    """The letter of the right choice, in capitals; None where the row has none.

    Raises:
        ScoringError: for what is no letter, or none of the row's columns of choices.
    """
    if row.first(*names) is None:
        return None
    letter = row.text(*names).strip().strip("()").upper()
    columns = [name for name in string.ascii_uppercase if name in row.values] or string.ascii_uppercase
    if len(letter) != 1 or letter not in columns:
        raise ScoringError(
            f"{row.where}: the right answer is {row.text(*names)[:80]!r}, no letter of {columns[0]}...{columns[-1]}."
        )
    return letter


def letter_at(place: Any, choices: Mapping[str, str], where: str) -> str | None:
    """The letter of a choice by its number, from 0; None where there is no number.

    Raises:
        ScoringError: for one that is no choice's.
    """
    if place is None:
        return None
    text = str(place).strip()
    letter = string.ascii_uppercase[int(text)] if text.isascii() and text.isdigit() and int(text) < 26 else None
    if letter not in choices:
        raise ScoringError(f"{where}: the right choice is number {text!r}, and there are {len(choices)}, from 0.")
    return letter


def part_of(row: Row, *names: str) -> str:
    """The part that a row belongs to; empty where it says none."""
    return row.text(*names) if row.first(*names) is not None else ""


def yes_or_no(row: Row, *names: str) -> str:
    """The right answer, "yes" or "no".

    Raises:
        ScoringError: if it is neither.
    """
    answer = row.text(*names).strip().lower()
    if answer not in ("yes", "no"):
        raise ScoringError(f"{row.where}: the right answer is {row.text(*names)!r}, neither yes nor no.")
    return answer


def plain_question(prompt: str) -> str:
    """A question as its benchmark states it, of a prompt: without the mark of the picture and without LLaVA's instructions."""
    prompt = _IMAGE_MARK.sub("", prompt)
    for instruction in (
        "Answer the question using a single word or phrase.",
        "Answer with the option's letter from the given choices directly.",
    ):
        prompt = prompt.removesuffix(instruction).rstrip()
    return prompt


def said(row: Row, *names: str, item: Item | None = None, **known: Any) -> Prediction:
    """A prediction of a row.

    Args:
        names: of what the model said; :data:`SAID` where none is named.
        item: the question, where the row has the right answer.
        known: other fields of the prediction; the id is else the row's ``question_id``, ``index`` or ``id``, the picture what
            the row names in ``image``, and the question its ``question`` or ``prompt``.

    Raises:
        ScoringError: if the row has no answer, or one that is no text.
    """
    numbers = ("question_id", "index", "id")
    question = row.first("question", "prompt")
    picture = row.first("image_source", "image_path", "image")
    found = {
        "id": identity(row, *numbers) if row.first(*numbers) is not None else None,
        # what is longer is a picture itself
        "picture": picture if isinstance(picture, str) and len(picture) < _LONGEST_NAME else None,
        "question": plain_question(question) if isinstance(question, str) else None,
    }
    return Prediction(text=row.answer(*(names or SAID)), where=row.where, item=item, **{**found, **known})


def identity(row: Row, *names: str) -> str:
    """An id as text; of a number without a fraction, as sheets have it, without its ".0".

    Raises:
        ScoringError: if the row has none.
    """
    text = row.text(*names)
    return text.removesuffix(".0") if isinstance(row.first(*names), float) else text


def json_whole(file: Path) -> Any:
    """The one JSON value of a file, for formats that are an object; None where it holds something else, as lines."""
    try:
        return read_json(file) if file.suffix.lower() == ".json" else None
    except ScoringError:
        return None


_IN_ONE_LINE = str.maketrans("\n\r\0", "   ")


def in_one_line(text: str) -> str:
    """A text that a file of lines can hold: each line end is a space, and so is each zero byte."""
    return text.replace("\r\n", " ").translate(_IN_ONE_LINE)


def write_lines(records: Iterable[Mapping[str, Any]], file: Path) -> Path:
    """JSON, one record a line."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    return _write(file, "".join(lines))


def write_json(value: Any, file: Path) -> Path:
    """One JSON value."""
    return _write(file, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def asked(prediction: Prediction) -> Item:
    """The question that a prediction answers.

    Raises:
        ScoringError: if it has none: formats that hold the right answer cannot be written without.
    """
    if prediction.item is None:
        raise ScoringError(f"{prediction.where}: without its question it cannot be written in the benchmark's format.")
    return prediction.item


def lines_submission(
    record: Callable[[Prediction], Mapping[str, Any]], name: str
) -> Callable[[Sequence[Prediction], Path], Path]:
    """A submission of one JSON record a line, into the folder's file of that name."""

    def write(predictions: Sequence[Prediction], folder: Path) -> Path:
        return write_lines(map(record, predictions), folder / name)

    return write


def _write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    # half characters, which JSON's escapes can bring in, are no UTF-8
    file.write_bytes(text.encode("utf-8", "replace"))
    return file


def _written_list(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ScoringError(f"{where}: its choices are a text that is no JSON list: {text[:80]!r}.") from error
