"""LLaVA JSON: a list of conversations about pictures that lie in a folder."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from pargo_mllm.data.corpus import PICTURE_LENGTH, Conversation, CorpusError, Example
from pargo_mllm.data.held_out import Split
from pargo_mllm.data.pictures import PictureError, load_picture
from pargo_mllm.data.sources.json_rows import json_rows, parse_json

MARK = "<image>"
_ROLES = {"human": "user", "gpt": "assistant"}
# a common LLaVA file spells it wrongly in some records
TURNS = ("conversations", "conversatons")


class LlavaCorpus:
    """Records ``{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}]}``.

    ``image`` is a name, a list of names, or absent. ``<image>`` in a turn is where a picture stands.

    Of each record its place in the file is kept, 17 bytes; its text is read again when it is asked for.

    Args:
        file: the JSON list.
        images: the folder that pictures are named from. No name leads out of it; links to other folders are followed, but a
            picture is no link itself.
        split: "train", or "test" for the share that is held out.
        held_out: this share of the records is held out, chosen by a hash of the name of their (first) picture without folder
            and suffix; of their id where they have no picture.

    Attributes:
        skipped: counts records that cannot be used, by reason.

    Raises:
        CorpusError: if the file is no such list, or leaves no record for the split.
        ValueError: see :class:`pargo_mllm.data.held_out.Split`.
    """

    def __init__(self, file: str | os.PathLike, images: str | os.PathLike, split: str = "train", held_out: float = 0.0):
        self.file, self.images = Path(file), Path(images)
        self.split = Split(split, held_out)
        self.skipped: Counter[str] = Counter()
        self._starts, self._sizes, self._pictures = array("q"), array("q"), array("B")
        digest = hashlib.sha256()
        for number, row in enumerate(json_rows(self.file)):
            digest.update(row.text)
            problem = _problem(row.value)
            if problem is not None:
                self.skipped[problem] += 1
            elif _split_name(row.value, number) in self.split:
                self._starts.append(row.start)
                self._sizes.append(len(row.text))
                self._pictures.append(len(_names(row.value)))
        self._digest = digest.hexdigest()
        if not self._starts:
            raise CorpusError(
                f"{self.file} has no record for split={split!r} with held_out={held_out}"
                + "".join(f"; {count:,} skipped: {reason}" for reason, count in self.skipped.items())
                + ". A record is {id, image, conversations: [{from: human or gpt, value}]}."
            )

    @property
    def parts(self) -> Sequence[int]:
        """See :class:`pargo_mllm.data.corpus.Corpus`: one part."""
        return [len(self)]

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Example:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""
        if not 0 <= index < len(self):
            raise IndexError(f"index={index} must be from 0 to {len(self) - 1}.")
        start, size = self._starts[index], self._sizes[index]
        record = parse_json(_read(self.file, start, size), f"{self.file}, byte {start:,}")
        if _problem(record) is not None:
            raise CorpusError(f"{self.file} has changed since it was opened: byte {start:,} is no record any more.")
        name = f"{self.file.name}: {record['id']}" if "id" in record else f"{self.file.name}, byte {start:,}"
        names = _names(record)
        conversation = llava_conversation(record, len(names), name)
        return Example(name, (conversation,), tuple(partial(self._picture, picture) for picture in names))

    def length_hint(self, index: int) -> int:
        """See :class:`pargo_mllm.data.corpus.Corpus`: bytes of the record, a picture taken for :data:`PICTURE_LENGTH`."""
        return self._sizes[index] + PICTURE_LENGTH * self._pictures[index]

    def settings(self) -> dict[str, Any]:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""
        return {"corpus": "llava", "content": self._digest, "split": self.split.name, "held_out": self.split.held_out}

    def _picture(self, name: str) -> Image.Image:
        path = self.images / name
        try:
            # folders may be links, put there by whoever arranged them; a file that is one came with the data
            inside = path.resolve().parent == path.parent.resolve()
        except (OSError, RuntimeError) as error:
            raise PictureError(f"{path} cannot be read as a picture: {error}") from error
        if not inside:
            raise PictureError(f"{path} is a link that leads out of its folder; put the picture itself there.")
        return load_picture(path)


def llava_conversation(record: dict[str, Any], pictures: int, name: str) -> Conversation:
    """The messages of a record with ``pictures`` pictures. White space around a text and beside ``<image>`` is left out.

    Raises:
        CorpusError: naming the record, if its turns are none, do not alternate from human to gpt, say nothing, or hold another
            number of ``<image>`` than there are pictures.
    """
    turns = _turns(record)
    if turns is None:
        raise CorpusError(f"{name} has no conversations: [{{from: human or gpt, value: text}}].")
    marks = sum(turn["value"].count(MARK) for turn in turns)
    if marks != pictures:
        raise CorpusError(f"{name} has {pictures} pictures and {marks} {MARK} in its turns; there must be one for each.")
    messages: Conversation = []
    for number, turn in enumerate(turns):
        expected = ("human", "gpt")[number % 2]
        if turn["from"] != expected:
            raise CorpusError(
                f"{name}: turn {number} is from {turn['from']!r}, not {expected!r}; they alternate from human on."
            )
        parts = [
            {"type": "image"} if piece == MARK else {"type": "text", "text": piece.strip()}
            for piece in re.split(f"({MARK})", turn["value"])
            if piece.strip()
        ]
        if not parts:
            raise CorpusError(f"{name}: turn {number} says nothing.")
        messages.append({"role": _ROLES[expected], "content": parts})
    if len(messages) % 2:
        raise CorpusError(f"{name} ends with a turn from human; nothing is answered there.")
    return messages


def _problem(record: Any) -> str | None:
    """Why a record cannot be used, or None."""
    if not isinstance(record, dict) or _turns(record) is None:
        return "records without conversations: [{from, value}]"
    if not isinstance(record.get("id", ""), (str, int)):
        return "records whose id is neither text nor number"
    names = record.get("image")
    if not isinstance(names, (str, list, type(None))) or not all(isinstance(name, str) for name in names or ()):
        return "records whose image is neither a name nor a list of names"
    if len(_names(record)) > 255:
        return "records with more than 255 pictures"
    if not all(map(_stays_inside, _names(record))):
        return "records whose image names are none or lead out of the images"
    return None


def _turns(record: dict[str, Any]) -> list[dict[str, str]] | None:
    turns = next((record[key] for key in TURNS if key in record), None)
    if not isinstance(turns, list) or not turns:
        return None
    said = [
        isinstance(turn, dict) and isinstance(turn.get("from"), str) and isinstance(turn.get("value"), str) for turn in turns
    ]
    return turns if all(said) else None


def _names(record: dict[str, Any]) -> list[str]:
    names = record.get("image")
    return [names] if isinstance(names, str) else names or []


def _stays_inside(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    pieces = name.split("/")
    return pieces[0] != "" and pieces[-1] not in ("", ".") and ".." not in pieces and "\0" not in name


def _split_name(record: dict[str, Any], number: int) -> str:
    names = _names(record)
    # no pathlib: it interns every name
    return posixpath.splitext(posixpath.basename(names[0]))[0] if names else str(record.get("id", number))


def _read(file: Path, start: int, size: int) -> bytes:
    try:
        with open(file, "rb") as opened:
            opened.seek(start)
            return opened.read(size)
    except OSError as error:
        raise CorpusError(f"{file} cannot be read: {error}") from error
