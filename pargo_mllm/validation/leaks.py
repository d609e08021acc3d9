"""Questions, answers and pictures of evaluations, to be found again in training data."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pargo_cli.benchmarks import BENCHMARKS
from pargo_mllm.data.sources.opening import leads_inside, named_file, open_regular
from pargo_mllm.evaluation.benchmark import ScoringError
from pargo_mllm.evaluation.reading.records import plain_question, records
from pargo_mllm.evaluation.reading.rows import Row
from pargo_mllm.evaluation.reading.set_pictures import last_name
from pargo_mllm.validation.samples import Sample, SamplePicture

_QUESTION = ("question", "query", "prompt", "text", "sentence", "sent", "expression")
_ANSWER = ("answer", "answers", "multiple_choice_answer", "direct_answers", "gt_answer", "gt_answers", "label", "ground_truth")
_PICTURE = ("image_source", "image_path", "image", "imgname", "file_name", "image_id", "imageId", "img_id")
_LONGEST_NAME = 256
# a shorter answer without a question is nobody's in particular
_SHORTEST_CAPTION = 20
_CHUNK = 2**20


@dataclass(frozen=True)
class Evaluated:
    """Sorted hashes, uint64, of what evaluations ask and show.

    Args:
        texts: a question with a right answer.
        asked: the same with the picture.
        names: pictures whose content is not at hand, by name.
        contents: pictures, by content; ``sizes`` are theirs in bytes.
    """

    texts: np.ndarray
    asked: np.ndarray
    names: np.ndarray
    contents: np.ndarray
    sizes: np.ndarray


def read_evaluated(files: Iterable[str]) -> Evaluated:
    """What files of evaluations hold.

    Args:
        files: ``FILE``, of any form that rows are read from, or ``BENCHMARK=PATH``, read as that benchmark reads it.

    Raises:
        EvaluationError: for a file that cannot be read, or in which nothing is asked.
    """
    texts: set[int] = set()
    asked: set[int] = set()
    names: set[int] = set()
    contents: set[int] = set()
    sizes: set[int] = set()
    for file in files:
        before = len(texts)
        for question, answers, name, content in _questions(file):
            key = ""
            if content is not None:
                digest = _digest_of(content)
                if digest is None:
                    content = None
                else:
                    key = f"content {digest}"
                    contents.add(digest)
                    sizes.add(len(content) if isinstance(content, bytes) else os.path.getsize(content))
            if content is None and name:
                key = f"name {last_name(name)}"
                names.add(_hash(key))
            for answer in answers:
                texts.add(_hash(_normal(question), _normal(answer)))
                asked.add(_hash(_normal(question), _normal(answer), key))
        if len(texts) == before:
            raise ScoringError(f"--against {file}: nothing in it is a question with an answer, or a caption.")
    return Evaluated(*(np.array(sorted(found), np.uint64) for found in (texts, asked, names, contents, sizes)))


def check_leaks(sample: Sample, evaluated: Evaluated) -> None:
    """Note what an evaluation asks or shows."""
    keys = []
    for picture in sample.pictures:
        digest = _content_of(picture, evaluated)
        key = f"content {digest}" if digest is not None else f"name {last_name(picture.name)}"
        if (digest is not None) or (picture.place is None and _among(_hash(key), evaluated.names)):
            keys.append(key)
            sample.add("leak_picture", f"{picture.name} is shown in an evaluation", picture)
    for question, answer in sample.pairs():
        plain = plain_question(question)
        ways = dict.fromkeys((plain, plain.split("\n")[0], plain.split("\n")[-1]))
        if len(answer) >= _SHORTEST_CAPTION:
            ways[""] = None
        for way in ways:
            said = (_normal(way), _normal(answer))
            if not _among(_hash(*said), evaluated.texts):
                continue
            here = any(_among(_hash(*said, key), evaluated.asked) for key in (keys or ([""] if not sample.pictures else [])))
            sample.add("leak" if here else "leak_text", f"{way[:80]!r}: {answer[:80]!r}")
            break


def _questions(given: str) -> Iterator[tuple[str, list[str], str, bytes | Path | None]]:
    """(question, right answers, name of the picture, its content) of a file."""
    benchmark, _, path = given.partition("=")
    if path and benchmark in BENCHMARKS:
        # a benchmark's module is imported where it is asked for alone
        from pargo_mllm.evaluation.benchmarks import find

        for item in find(benchmark).read(Path(path)):
            right = _texts(item.answer)
            yield item.question, [*right, *(item.choices[one] for one in right if one in item.choices)], item.picture, None
        return
    file = Path(given)
    for row in records(file):
        name, content = _picture(row, file.parent)
        for question, answers in _of_row(row.values):
            yield question, answers, name, content


def _of_row(values: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    turns = values.get("conversations")
    if isinstance(turns, list):
        said = [turn["value"] for turn in turns if isinstance(turn, dict) and isinstance(turn.get("value"), str)]
        for question, answer in zip(said[::2], said[1::2], strict=False):
            yield plain_question(question), [answer]
        return
    question = next((values[key] for key in _QUESTION if isinstance(values.get(key), str)), None)
    answers = [text for key in _ANSWER for text in _texts(values.get(key))]
    choices, right = values.get("choices"), values.get("correct_choice_idx")
    if isinstance(choices, list) and isinstance(right, int) and 0 <= right < len(choices):
        answers += [*_texts(choices[right]), chr(ord("A") + right)]
    answers += [text for one in answers if one in tuple("ABCDEFGH") for text in _texts(values.get(one))]
    if question is not None and answers:
        yield plain_question(question), list(dict.fromkeys(answers))
    elif isinstance(values.get("caption"), str):
        yield "", [values["caption"]]


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


def _content_of(picture: SamplePicture, evaluated: Evaluated) -> int | None:
    """The hash of its content, if an evaluation shows the same."""
    try:
        with picture.opened() as (file, size):
            if not _among(size, evaluated.sizes):
                return None
            digest = hashlib.blake2b(digest_size=8)
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except (OSError, ValueError):
        return None
    found = int.from_bytes(digest.digest(), "little")
    return found if _among(found, evaluated.contents) else None


def _digest_of(content: bytes | Path) -> int | None:
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(content, bytes):
        digest.update(content)
    else:
        try:
            with open_regular(content) as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except OSError:
            return None
    return int.from_bytes(digest.digest(), "little")


def _hash(*pieces: str) -> int:
    told = "\0".join(pieces).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "little")


def _normal(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!? ")


def _among(value: int, values: np.ndarray) -> bool:
    place = int(np.searchsorted(values, np.uint64(value)))
    return place < len(values) and int(values[place]) == value
