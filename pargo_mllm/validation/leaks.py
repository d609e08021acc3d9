"""Questions, answers and pictures of evaluations, found again in training data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pargo_mllm.data.frames import FRAMES, Box, Size, convert, iou
from pargo_mllm.data.sources.opening import open_regular
from pargo_mllm.evaluation.benchmark import ScoringError
from pargo_mllm.evaluation.reading.set_pictures import last_name
from pargo_mllm.validation.evaluated import Right, read_right
from pargo_mllm.validation.samples import Sample, SamplePicture
from pargo_mllm.validation.wording import choice_key, keys_of, normal, phrase_and_box

# a shorter answer without a question is nobody's in particular
_SHORTEST_CAPTION = 20
# what every picture is called where each has a folder of its own, as in ScienceQA
_IN_FOLDERS = ("image",)
# from which on two boxes of one phrase are one
_SAME_BOX = 0.5
_CHUNK = 2**20


@dataclass(frozen=True)
class Evaluated:
    """Sorted hashes, uint64, of what evaluations ask and show.

    Args:
        texts: a question with a right answer.
        asked: the same with the picture.
        names: pictures whose content is not at hand, by name.
        contents: pictures, by content; ``sizes`` are theirs in bytes.
        phrases: a phrase with the picture, and ``boxes``, float64 ``[n, 4]``, what it describes there, in pixels.
    """

    texts: np.ndarray
    asked: np.ndarray
    names: np.ndarray
    contents: np.ndarray
    sizes: np.ndarray
    phrases: np.ndarray
    boxes: np.ndarray


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
    boxes: set[tuple[int, Box]] = set()
    for file in files:
        is_asked = False
        for right in read_right(file):
            digest = None if right.content is None else _digest_of(right.content)
            key = ""
            if digest is not None:
                key = f"content {digest}"
                contents.add(digest)
                sizes.add(len(right.content) if isinstance(right.content, bytes) else os.path.getsize(right.content))  # type: ignore[arg-type]
            elif right.picture:
                key = _name_key(right.picture, right.owner)
                names.add(_hash(key))
            if right.box is not None:
                boxes.add((_hash(normal(right.question), key), right.box))
                is_asked = True
            for pieces in _keys(right):
                texts.add(_hash(*pieces))
                asked.add(_hash(*pieces, key))
                is_asked = True
        if not is_asked:
            raise ScoringError(f"--against {file}: nothing in it is a question with an answer, or a caption.")
    ordered = sorted(boxes)
    sorted_hashes = [np.array(sorted(found), np.uint64) for found in (texts, asked, names, contents, sizes)]
    phrases = np.array([phrase for phrase, _ in ordered], np.uint64)
    return Evaluated(*sorted_hashes, phrases, np.array([box for _, box in ordered], np.float64).reshape(-1, 4))  # type: ignore[call-arg]


def _keys(right: Right) -> Iterable[tuple[str, ...]]:
    for answer in right.answers:
        if right.options:
            yield choice_key(right.question, right.options, answer)
            yield normal(right.question), normal(answer)
        else:
            yield next(iter(keys_of(right.question, answer)))


def check_leaks(sample: Sample, evaluated: Evaluated, frame: str | None = None, size: Size | None = None) -> None:
    """Note what an evaluation asks or shows.

    Args:
        frame: of the sample's boxes; where none is declared, each is tried.
        size: that they count in.
    """
    keys = []
    for picture in sample.pictures:
        digest = _content_of(picture, evaluated)
        key = f"content {digest}" if digest is not None else _name_key(picture.name)
        if (digest is not None) or (picture.place is None and _among(_hash(key), evaluated.names)):
            keys.append(key)
            sample.add("leak_picture", f"{picture.name} is shown in an evaluation", picture)
    for question, answer in sample.pairs():
        ways = [*keys_of(question, answer)]
        if len(answer) >= _SHORTEST_CAPTION:
            ways.append(("", normal(answer)))
        known = [way for way in ways if _among(_hash(*way), evaluated.texts)]
        told = f"{question.strip()[:80]!r}: {answer[:80]!r}"
        places = keys or ([""] if not sample.pictures else [])
        if _leaks_box(question, answer, evaluated, keys, frame, size) or any(
            _among(_hash(*way, key), evaluated.asked) for way in known for key in places
        ):
            sample.add("leak", told)
        elif known:
            sample.add("leak_text", told)


def _leaks_box(question: str, answer: str, evaluated: Evaluated, keys: list[str], frame: str | None, size: Size | None) -> bool:
    """Whether a turn says of a picture what an evaluation asks: the phrase, and about the same box."""
    said = phrase_and_box(question, answer) if len(evaluated.boxes) and keys and size is not None else None
    if said is None or size is None or min(size) <= 0:
        return False
    phrase, box = said
    boxes = [convert(box, one, "pixels", size) for one in ([frame] if frame in FRAMES else FRAMES) if one is not None]
    for key in keys:
        value = np.uint64(_hash(phrase, key))
        first, last = (int(np.searchsorted(evaluated.phrases, value, side)) for side in ("left", "right"))  # type: ignore[call-overload]
        if any(iou(one, right) >= _SAME_BOX for one in boxes for right in evaluated.boxes[first:last].tolist()):
            return True
    return False


def _name_key(name: str, owner: str = "") -> str:
    """What stands for a picture whose content is not at hand."""
    last = last_name(name)
    if last in _IN_FOLDERS:
        folders = name.replace("\\", "/").split("/")[:-1] or [owner]
        last = f"{folders[-1]}/{last}"
    return f"name {last}"


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


def _among(value: int, values: np.ndarray) -> bool:
    place = int(np.searchsorted(values, np.uint64(value)))
    return place < len(values) and int(values[place]) == value
