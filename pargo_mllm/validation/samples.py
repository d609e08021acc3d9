"""One sample, whatever it is kept in, and what was found of it so far."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from pargo_mllm.data.corpus import Conversation
from pargo_mllm.data.sources.llava_records import TURNS
from pargo_mllm.data.sources.opening import open_regular
from pargo_mllm.validation.findings import Finding, PicturePlace


class Part(io.RawIOBase):
    """Bytes ``offset`` to ``offset + size`` of an opened file, as a file of their own."""

    def __init__(self, descriptor: int, offset: int, size: int):
        self._descriptor, self._offset, self._size, self._at = descriptor, offset, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Where the next byte is read."""
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        """See :meth:`seek`."""
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer as far as there are bytes."""
        wanted = max(0, min(len(buffer), self._size - self._at))
        content = os.pread(self._descriptor, wanted, self._offset + self._at)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


@dataclass(frozen=True)
class SamplePicture:
    """A picture of a sample.

    Args:
        name: as the record has it; of a shard, what messages call it.
        file: its file, or the shard.
        folder: what it should lie in.
        place: of a shard, (offset, bytes).
        content: its bytes, where the record itself holds them.
    """

    name: str
    file: Path
    folder: Path
    place: tuple[int, int] | None = None
    content: bytes | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is a file of its own."""
        return self.place is None and self.content is None

    @contextmanager
    def opened(self) -> Iterator[tuple[IO[bytes], int]]:
        """Its bytes as a file, and how many they are.

        Raises:
            OSError: if it cannot be opened, or is no regular file.
            ValueError: if no file can have that name.
        """
        if self.content is not None:
            yield io.BytesIO(self.content), len(self.content)
            return
        with open_regular(self.file) as raw:
            if self.place is None:
                yield io.BufferedReader(raw), os.fstat(raw.fileno()).st_size
            else:
                yield io.BufferedReader(Part(raw.fileno(), *self.place)), self.place[1]

    def shown(self) -> PicturePlace | None:
        """Where a report finds it."""
        return None if self.content is not None else PicturePlace(str(self.folder), str(self.file), self.place)


@dataclass
class Sample:
    """A record with its pictures.

    Args:
        file: as messages call it.
        number, line, byte: see :class:`pargo_mllm.validation.findings.Finding`; from the beginning of the piece, but ``byte``.
        id: the record's, as text.
        record: what it says, as LLaVA has it; None where it is no record.
        form: that it is written in.
        image: how its images are written, "a name" or "a list"; None where there are none.
        conversation: as training reads it; None where training skips it.
        pictures: those whose names can lead to one.
        found: what is wrong.
    """

    file: str
    number: int
    line: int | None = None
    byte: int | None = None
    id: str | None = None
    record: dict[str, Any] | None = None
    form: str = "other"
    image: str | None = None
    conversation: Conversation | None = None
    pictures: list[SamplePicture] = field(default_factory=list)
    found: list[Finding] = field(default_factory=list)

    def add(self, kind: str, detail: str, picture: SamplePicture | None = None) -> None:
        """Note a finding, with a picture to show: its first, where none is given."""
        shown = picture or (self.pictures[0] if self.pictures else None)
        place = None if shown is None else shown.shown()
        self.found.append(Finding(kind, detail, self.file, self.number, self.line, self.byte, self.id, place))

    def finish(self) -> list[Finding]:
        """What was found, each finding once, with the id and a picture where they were not known yet."""
        shown = self.pictures[0].shown() if self.pictures else None
        return [
            replace(one, id=self.id if one.id is None else one.id, picture=one.picture or shown)
            for one in dict.fromkeys(self.found)
        ]

    def answers(self) -> list[str]:
        """What the assistant says, turn by turn."""
        return [texts(message["content"]) for message in self.conversation or () if message["role"] == "assistant"]

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Questions with their answers."""
        asked = ""
        for message in self.conversation or ():
            if message["role"] == "user":
                asked = texts(message["content"])
            elif message["role"] == "assistant":
                yield asked, texts(message["content"])


def turns_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The turns of a record, whatever it calls them, that are objects."""
    turns: list[Any] = next((record[key] for key in (*TURNS, "messages") if isinstance(record.get(key), list)), [])
    return [turn for turn in turns if isinstance(turn, dict)]


def texts(content: Any) -> str:
    """What a message says, without its pictures."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")
