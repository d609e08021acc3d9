"""What a set says of its official files, one entry at a time; small and as JSON, for another process takes it from there."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pargo_mllm.data.sources.llava_records import MARK


@dataclass(frozen=True)
class Picture:
    """Where a picture lies.

    Args:
        kind: "file" (``place``: its name below the source), "tar" (name of the tar, offset, bytes), "parquet" (name of the
            file, row group, row in it, column) or "url" (address).
        name: where it shall lie below ``images/``, with ``{suffix}`` where the suffix follows from its content.
    """

    kind: str
    place: tuple[Any, ...]
    name: str

    @classmethod
    def file(cls, name: str, to: str | None = None) -> Picture:
        """A file below the source; it keeps its name unless ``to`` says another."""
        return cls("file", (name,), to or name)


@dataclass(frozen=True)
class Entry:
    """What shall be a record.

    Args:
        id: as the set has it; of its own among the set's entries.
        conversations: turns, LLaVA's: ``{"from": "human" | "gpt", "value"}``, with ``<image>`` where the picture stands.
        size: width and height in pixels, where the set says them: a picture of another size is not the one that is meant.
        frame: of the boxes in the turns, of :data:`pargo_mllm.data.frames.FRAMES`; None where there are none.
    """

    id: str
    picture: Picture | None
    conversations: tuple[dict[str, str], ...]
    size: tuple[int, int] | None = None
    frame: str | None = None


@dataclass(frozen=True)
class Skipped:
    """What can be no record, and why; ``reason`` is the same for all of its kind: "questions without an answer"."""

    id: str
    reason: str


def turns(pairs: Sequence[tuple[str, str]], picture: bool = True) -> tuple[dict[str, str], ...]:
    """A conversation of questions with their answers; the picture, if there is one, stands in front of the first question."""
    said = []
    for number, (question, answer) in enumerate(pairs):
        shows = picture and number == 0
        said.append({"from": "human", "value": (f"{MARK}\n{question}" if question else MARK) if shows else question})
        said.append({"from": "gpt", "value": answer})
    return tuple(said)


def chance(seed: int, *names: object) -> random.Random:
    """A source of chance that depends on these alone: not on the order of entries, nor on who works on them."""
    told = "/".join(map(str, (seed, *names)))
    return random.Random(int.from_bytes(hashlib.sha256(told.encode("utf-8", "surrogatepass")).digest()[:8], "little"))


def to_line(entry: Entry | Skipped) -> str:
    """As a line of a plan."""
    told = dict(vars(entry))
    if told.get("picture") is not None:
        told["picture"] = vars(told["picture"])
    return json.dumps(told)


def from_line(line: str) -> Entry | Skipped:
    """A line of a plan."""
    told = json.loads(line)
    if "reason" in told:
        return Skipped(**told)
    place = told.pop("picture")
    picture = None if place is None else Picture(place["kind"], tuple(place["place"]), place["name"])
    conversations, size = tuple(told.pop("conversations")), told.pop("size")
    return Entry(picture=picture, conversations=conversations, size=None if size is None else (size[0], size[1]), **told)
