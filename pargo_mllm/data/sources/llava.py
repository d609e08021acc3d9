"""LLaVA JSON: a list (or lines) of conversations about pictures that lie in a folder."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from pargo_mllm.data.corpus import (
    PICTURE_LENGTH,
    Conversation,
    CorpusError,
    Example,
    Tally,
    all_skipped,
    counted,
    is_text,
    shown,
)
from pargo_mllm.data.held_out import Split
from pargo_mllm.data.pictures import load_picture
from pargo_mllm.data.sources.json_rows import DAMAGED, json_lines, json_rows, parse_json
from pargo_mllm.data.sources.opening import leads_inside, named_file, open_regular

MARK = "<image>"
_ROLES = {"human": "user", "gpt": "assistant"}
# a common LLaVA file spells it wrongly in some records
TURNS = ("conversations", "conversatons")


class LlavaCorpus:
    """Records ``{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}]}``.

    ``image`` is a name, a list of names, or absent. ``<image>`` in a turn is where a picture stands.

    Of each record its place in the file is kept, 17 bytes; its text is read again when it is asked for.

    Args:
        file: the JSON list; a name that ends with ``.jsonl`` is that of JSON Lines, a record each.
        images: the folder that pictures are named from. No name leads out of it; a link that lies in it is followed.
        split: "train", or "test" for the share that is held out.
        held_out: this share of the records is held out, chosen by a hash of the name of their (first) picture without folder
            and suffix; of their id where they have no picture.
        absolute: names may be absolute paths too, of files in ``images`` or below it.

    Attributes:
        tallies: what became of the "records".

    Raises:
        CorpusError: if the file is no such list, or leaves no record for the split.
        ValueError: see :class:`pargo_mllm.data.held_out.Split`.
    """

    def __init__(
        self,
        file: str | os.PathLike,
        images: str | os.PathLike,
        split: str = "train",
        held_out: float = 0.0,
        absolute: bool = False,
    ):
        self.file, self.images = Path(file), Path(images)
        self.split = Split(split, held_out)
        self._root = os.path.abspath(self.images) if absolute else None
        self._starts, self._sizes, self._pictures = array("q"), array("q"), array("B")
        digest = hashlib.sha256()
        entries = other_side = 0
        skipped: Counter[str] = Counter()
        for number, row in enumerate((json_lines if self.file.suffix.lower() == ".jsonl" else json_rows)(self.file)):
            entries += 1
            digest.update(row.text)
            problem = _problem(row.value, self._root)
            if problem is not None:
                skipped[problem] += 1
            elif _split_name(row.value, number) not in self.split:
                other_side += 1
            else:
                self._starts.append(row.start)
                self._sizes.append(len(row.text))
                self._pictures.append(len(_names(row.value)))
        self._digest = digest.hexdigest()
        self.tallies: Mapping[str, Tally] = {"records": Tally(entries, len(self._starts), other_side, skipped)}
        if not self._starts:
            raise CorpusError(
                f"{self.file} has no record for split={split!r} with held_out={held_out}: of {entries:,} records "
                f"{other_side:,} are on the other side{counted(skipped)}. "
                "A record is {id, image, conversations: [{from: human or gpt, value}]}."
            )

    @property
    def skipped(self) -> Counter[str]:
        """Records that cannot be used, counted by reason."""
        return all_skipped(self.tallies)

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
        if _problem(record, self._root) is not None:
            raise CorpusError(f"{self.file} has changed since it was opened: byte {start:,} is no record any more.")
        name = f"{self.file.name}: {shown(str(record['id']))}" if "id" in record else f"{self.file.name}, byte {start:,}"
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
        return load_picture(named_file(self.images, name))


def llava_conversation(record: dict[str, Any], pictures: int, name: str) -> Conversation:
    """The messages of a record with ``pictures`` pictures. White space around a text and beside ``<image>`` is left out.

    Raises:
        CorpusError: naming the record, if its turns are none, do not alternate from human to gpt, say nothing, hold half a
            character, or another number of ``<image>`` than there are pictures.
    """
    turns = _turns(record)
    if turns is None:
        raise CorpusError(f"{name} has no conversations: [{{from: human or gpt, value: text}}].")
    if not is_text(turn["value"] for turn in turns):
        raise CorpusError(f"{name} has a text with half a character (a lone surrogate, such as \\ud83d).")
    marks = sum(turn["value"].count(MARK) for turn in turns)
    if marks != pictures:
        raise CorpusError(f"{name} has {pictures} pictures and {marks} {MARK} in its turns; there must be one for each.")
    messages: Conversation = []
    for number, turn in enumerate(turns):
        expected = ("human", "gpt")[number % 2]
        if turn["from"] != expected:
            raise CorpusError(
                f"{name}: turn {number} is from {shown(turn['from'])!r}, not {expected!r}; they alternate from human on."
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


def _problem(record: Any, root: str | None) -> str | None:
    """Why a record cannot be used, or None; ``root`` is where absolute names may lead."""
    if record is DAMAGED:
        return "lines that are no JSON"
    turns = _turns(record) if isinstance(record, dict) else None
    if turns is None:
        return "records without conversations: [{from, value}]"
    if not is_text(turn["value"] for turn in turns):
        return "records with a text that holds half a character (a lone surrogate)"
    if not isinstance(record.get("id", ""), (str, int)):
        return "records whose id is neither text nor number"
    names = record.get("image")
    if not isinstance(names, (str, list, type(None))) or not all(isinstance(name, str) for name in names or ()):
        return "records whose image is neither a name nor a list of names"
    if len(_names(record)) > 255:
        return "records with more than 255 pictures"
    inside = [_below(root, name) for name in _names(record)]
    if root is None and any(name.startswith("/") for name in inside):
        return "records whose image names are absolute paths (image_root says where they may lead)"
    if not all(map(leads_inside, inside)):
        return "records whose image names are none or lead out of the images"
    return None


def _below(root: str | None, name: str) -> str:
    """An absolute name as one from ``root`` on, if it leads there; any other as it is."""
    start = None if root is None else os.path.join(root, "")
    return name[len(start) :] if start is not None and name.startswith(start) else name


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


def _split_name(record: dict[str, Any], number: int) -> str:
    names = _names(record)
    # no pathlib: it interns every name
    return posixpath.splitext(posixpath.basename(names[0]))[0] if names else str(record.get("id", number))


def _read(file: Path, start: int, size: int) -> bytes:
    try:
        with open_regular(file) as opened:
            return os.pread(opened.fileno(), size, start)
    except OSError as error:
        raise CorpusError(f"{file} cannot be read: {error}") from error
