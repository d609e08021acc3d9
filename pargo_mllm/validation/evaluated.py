"""What files of evaluations ask, what they take for right, and what they show."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pargo_cli.benchmarks import BENCHMARKS
from pargo_mllm.data.frames import Box, from_xywh
from pargo_mllm.data.preparation.fields import numbers
from pargo_mllm.data.preparation.sets.vsr import answer_of, as_question
from pargo_mllm.data.sources.opening import leads_inside, named_file
from pargo_mllm.evaluation.benchmark import Item, ScoringError
from pargo_mllm.evaluation.reading.records import json_whole, records
from pargo_mllm.evaluation.reading.rows import Row

_QUESTION = ("question", "query", "prompt", "text", "sentence", "sent", "expression")
_ANSWER = ("answer", "answers", "multiple_choice_answer", "direct_answers", "gt_answer", "gt_answers", "label", "ground_truth")
_PICTURE = ("image_source", "image_path", "image", "imgname", "file_name", "image_id", "imageId", "img_id")
_LONGEST_NAME = 256


@dataclass(frozen=True)
class Right:
    """A question with what is right.

    Args:
        question: of a caption empty; of a box the phrase.
        answers: any of them is right.
        options: texts, of which the answers name one; empty where it has none.
        box: in pixels, where the answer is one.
        picture: its name.
        owner: of the row: what tells pictures apart that all have one name.
        content: of the picture, where it is at hand.
    """

    question: str
    answers: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    box: Box | None = None
    picture: str = ""
    owner: str = ""
    content: bytes | Path | None = None


def read_right(given: str) -> Iterator[Right]:
    """What ``FILE`` or ``BENCHMARK=PATH`` asks.

    Raises:
        EvaluationError: if it cannot be read, or holds one half of a benchmark alone.
    """
    benchmark, _, path = given.partition("=")
    if path and benchmark in BENCHMARKS:
        yield from _of_benchmark(given, benchmark, Path(path))
        return
    file = Path(given)
    phrases = _phrases(json_whole(file))
    if phrases is not None:
        yield from phrases
        return
    for row in records(file):
        name, content = _picture(row, file.parent)
        owner = str(row.values.get("id", ""))
        # OCR-VQA's covers go by the row's own id
        name = name or (owner if "questions" in row.values else "")
        for question, answers, options in _of_row(row.values):
            yield Right(question, tuple(answers), tuple(options), None, name, owner, content)


def _of_benchmark(given: str, benchmark: str, path: Path) -> Iterator[Right]:
    # a benchmark's module is imported where it is asked for alone
    from pargo_mllm.evaluation.benchmarks import find

    found = find(benchmark)
    items = found.read(path)
    if items and "{question}" in found.prompt and not any(item.question.strip() for item in items):
        raise ScoringError(
            f"--against {given}: it holds answers without their questions; give the folder that holds both files."
        )
    yield from map(_of_item, items)


def _of_item(item: Item) -> Right:
    if isinstance(item.answer, tuple) and len(item.answer) == 4 and all(isinstance(one, float) for one in item.answer):
        return Right(item.question, box=item.answer, picture=item.picture)  # type: ignore[arg-type]
    right = _texts(item.answer)
    chosen = [item.choices[one] for one in right if one in item.choices]
    return Right(item.question, tuple(chosen or right), tuple(item.choices.values()) if chosen else (), None, item.picture)


def _phrases(value: Any) -> Iterator[Right] | None:
    """Of a COCO file whose images have a caption that describes their annotation, as MDETR writes phrases with boxes."""
    if not isinstance(value, dict) or not all(isinstance(value.get(key), list) for key in ("images", "annotations")):
        return None
    images = [one for one in value["images"] if isinstance(one, dict) and isinstance(one.get("caption"), str)]
    if not images:
        return None
    boxes = {str(one.get("image_id")): numbers(one.get("bbox")) for one in value["annotations"] if isinstance(one, dict)}
    told = ((image, boxes.get(str(image.get("id")), [])) for image in images)
    return (
        Right(image["caption"], box=from_xywh(box), picture=str(image.get("file_name", "")))
        for image, box in told
        if len(box) == 4
    )


def _of_row(values: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[str]]]:
    """(question, right answers, options) of a row."""
    turns = values.get("conversations")
    if isinstance(turns, list):
        said = [turn["value"] for turn in turns if isinstance(turn, dict) and isinstance(turn.get("value"), str)]
        yield from ((question, [answer], []) for question, answer in zip(said[::2], said[1::2], strict=False))
        return
    asked, told = values.get("questions"), values.get("answers")
    if isinstance(asked, list) and isinstance(told, list):
        # OCR-VQA's
        for question, answer in zip(asked, told, strict=False):
            if isinstance(question, str) and _texts(answer):
                yield question, _texts(answer), []
        return
    question = next((values[key] for key in _QUESTION if isinstance(values.get(key), str)), None)
    caption = values.get("caption")
    if question is None and isinstance(caption, str):
        statement, label = as_question(caption), answer_of(values.get("label"))
        yield ("", [caption], []) if statement is None or label is None else (statement, [label], [])
        return
    if question is None:
        return
    options, right = _options(values)
    answers = [right] if right is not None else []
    answers += [text for key in _ANSWER for text in _texts(values.get(key))] if right is None or not options else []
    # A-OKVQA's open answers stand beside its options
    answers = list(dict.fromkeys(answers))
    if answers:
        yield question, answers, options
    direct = _texts(values.get("direct_answers"))
    if options and direct:
        yield question, direct, []


def _options(values: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """The options of a row and the text of the right one: of a list with a number, or of columns with a letter."""
    listed = values.get("choices")
    if isinstance(listed, (list, tuple)):
        options = [" ".join(str(one).split()) for one in listed]
        right = values.get("correct_choice_idx", values.get("answer"))
        if isinstance(right, int) and not isinstance(right, bool) and 0 <= right < len(options):
            return options, options[right]
    columns = {letter: _texts(values.get(letter)) for letter in "ABCDEFGHIJ"}
    answer = values.get("answer")
    if isinstance(answer, str) and columns.get(answer.strip()):
        return [text for texts in columns.values() for text in texts], columns[answer.strip()][0]
    return [], None


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [str(value)]
    if isinstance(value, Mapping):
        return _texts(value.get("answer"))
    if isinstance(value, (list, tuple)):
        return [text for one in value if not isinstance(one, (list, tuple)) for text in _texts(one)]
    return []


def _picture(row: Row, folder: Path) -> tuple[str, bytes | Path | None]:
    for key in _PICTURE:
        held = row.values.get(key)
        if isinstance(held, Mapping):
            held = held.get("bytes") or held.get("path")
        if isinstance(held, (bytes, bytearray)):
            return "", bytes(held)
        if isinstance(held, str) and len(held) > _LONGEST_NAME:
            try:
                return "", base64.b64decode(held, validate=True)
            except ValueError:
                continue
        if isinstance(held, int) and not isinstance(held, bool):
            return str(held), None
        if isinstance(held, str) and held:
            files = [named_file(place, held) for place in (folder, folder / "images") if leads_inside(held)]
            return held, next((file for file in files if os.path.isfile(file)), None)
    return "", None
