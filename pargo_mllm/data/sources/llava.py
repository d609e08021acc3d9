"""LLaVA JSON: a list (or lines) of conversations about pictures that lie in a folder."""

from __future__ import annotations

import hashlib
import os
import posixpath
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    shown,
)
from pargo_mllm.data.held_out import Split
from pargo_mllm.data.pictures import load_picture, upright_size
from pargo_mllm.data.sources.json_rows import AS_LIST, DAMAGED, JsonRow, begins_list, json_lines, json_rows, parse_json
from pargo_mllm.data.sources.llava_records import ID, NO_TURNS, UnusableRecord, picture_names, record_messages
from pargo_mllm.data.sources.opening import leads_inside, named_file, open_regular
from pargo_mllm.data.sources.record_forms import as_llava
from pargo_mllm.data.sources.region_file import RegionFile, regions_of, told_of

# in a folder whose pictures lie in images/
LIST = "data.json"
LINES = "lines that are no JSON"
ABSOLUTE = "records whose image names are absolute paths (image_root says where they may lead)"
OUTSIDE = "records whose image names are none or lead out of the images"
ADDRESS = "records whose images are addresses on the web (none is fetched; download them and name the files)"
# what begins a name that holds its picture itself
DATA = "data:"
_WANTED = (
    "a record is {id, image, conversations: [{from: human or gpt, value}]}, or messages with images, or another known form."
)


@dataclass(frozen=True)
class RawRecord:
    """A record's bytes, what they say as LLaVA says it, and the names of its pictures."""

    text: bytes
    value: dict[str, Any]
    names: list[str]


@dataclass(frozen=True)
class LeftOutRecord:
    """A record that cannot be used: its number and its first byte in the file, its id where it has a usable one, and why."""

    number: int
    start: int
    id: str | None
    reason: str
    detail: str


class LlavaCorpus:
    """Records ``{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}]}``, or in a form of
    :func:`pargo_mllm.data.sources.record_forms.as_llava`.

    ``image`` (or ``images``) is a name, a list of names, or absent; a ``data:`` URL in place of a name is the picture itself.
    ``<image>`` in a turn is where a picture stands. A turn from ``system`` may stand in front. Every record is checked as it
    will be read; one that cannot be used is counted by its reason.

    Of each record its place in the file is kept, 17 bytes; its text is read again when it is asked for.

    Args:
        file: the JSON list; a name that ends with ``.jsonl`` is that of JSON Lines, a record each.
        images: the folder that pictures are named from. No name leads out of it; a link that lies in it is followed.
        split: "train", or "test" for the share that is held out.
        held_out: this share of the records is held out, chosen by a hash of the name of their (first) picture without folder
            and suffix; of their id where they have no picture.
        absolute: names may be absolute paths too, of files in ``images`` or below it.
        regions: what is where in its pictures.

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
        regions: RegionFile | None = None,
    ):
        self.file, self.images = Path(file), Path(images)
        self.split, self.regions = Split(split, held_out), regions
        self._root = os.path.abspath(self.images) if absolute else None
        self._starts, self._sizes, self._pictures = array("q"), array("q"), array("B")
        # of records that hold pictures: characters of these
        self._held: dict[int, int] = {}
        digest = hashlib.sha256()
        entries = other_side = 0
        skipped: Counter[str] = Counter()
        lines, is_list = self.file.suffix.lower() == ".jsonl", False
        for number, row in enumerate(_rows(self.file)):
            entries += 1
            is_list = is_list or (lines and entries == 1 and begins_list(row.text))
            digest.update(row.text)
            if row.value is DAMAGED:
                skipped[LINES] += 1
                continue
            try:
                record, names, _ = read_record(row.value, self._root)
            except UnusableRecord as problem:
                skipped[problem.reason] += 1
                continue
            if _split_name(record, names, number) not in self.split:
                other_side += 1
            else:
                held = sum(len(name) for name in names if name.startswith(DATA))
                if held:
                    self._held[len(self._starts)] = held
                self._starts.append(row.start)
                self._sizes.append(len(row.text))
                self._pictures.append(len(names))
        self._digest = digest.hexdigest()
        self.tallies: Mapping[str, Tally] = {"records": Tally(entries, len(self._starts), other_side, skipped)}
        if not entries:
            raise CorpusError(f"{self.file} holds no record; {_WANTED}")
        if not self._starts:
            hint = f". It begins like a JSON list: {AS_LIST}" if is_list else ""
            raise CorpusError(
                f"{self.file} has no record for split={split!r} with held_out={held_out}: of {entries:,} records "
                f"{other_side:,} are on the other side{counted(skipped)}{hint}; {_WANTED}"
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
        value = parse_json(_read(self.file, start, size), f"{self.file}, byte {start:,}")
        try:
            record, names, conversation = read_record(value, self._root)
        except UnusableRecord as error:
            raise CorpusError(
                f"{self.file} has changed since it was opened: byte {start:,} is no record any more: {error}."
            ) from error
        name = f"{self.file.name}: {shown(str(record['id']))}" if "id" in record else f"{self.file.name}, byte {start:,}"
        pictures = tuple(partial(self._picture, picture, name) for picture in names)
        sizes = [partial(self._size, picture, name) for picture in names]
        regions = regions_of(self.regions, [_below(self._root, picture) for picture in names], sizes)
        return Example(name, (conversation,), pictures, regions=regions)

    def raw(self, index: int) -> RawRecord:
        """A record as it stands in the file.

        Raises:
            CorpusError: if the file has changed since it was opened.
        """
        start = self._starts[index]
        text = _read(self.file, start, self._sizes[index])
        value = parse_json(text, f"{self.file}, byte {start:,}")
        try:
            record = as_llava(value)
            return RawRecord(text, record, _names(record, self._root))
        except UnusableRecord as error:
            raise CorpusError(f"{self.file} has changed since it was opened: byte {start:,}: {error}.") from error

    def left_out(self) -> Iterator[LeftOutRecord]:
        """The records that cannot be used, of both sides of the split; the file is read again."""
        for number, row in enumerate(_rows(self.file)):
            if row.value is DAMAGED:
                yield LeftOutRecord(number, row.start, None, LINES, "the line is no JSON")
                continue
            try:
                read_record(row.value, self._root)
            except UnusableRecord as problem:
                id = row.value.get("id") if isinstance(row.value, dict) else None
                id = str(id) if isinstance(id, (str, int)) else None
                yield LeftOutRecord(number, row.start, id, problem.reason, str(problem))

    def length_hint(self, index: int) -> int:
        """See :class:`pargo_mllm.data.corpus.Corpus`: bytes of the record, a picture taken for :data:`PICTURE_LENGTH`."""
        return self._sizes[index] - self._held.get(index, 0) + PICTURE_LENGTH * self._pictures[index]

    def settings(self) -> dict[str, Any]:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""
        split = {"split": self.split.name, "held_out": self.split.held_out}
        return {"corpus": "llava", "content": self._digest, **split, **told_of(self.regions)}

    def _picture(self, name: str, record: str) -> Image.Image:
        return (
            load_picture(name, f"a picture in {record}")
            if name.startswith(DATA)
            else load_picture(named_file(self.images, name))
        )

    def _size(self, name: str, record: str) -> tuple[int, int]:
        if name.startswith(DATA):
            return self._picture(name, record).size
        return upright_size(named_file(self.images, name))


def _rows(file: Path) -> Iterator[JsonRow]:
    return (json_lines if file.suffix.lower() == ".jsonl" else json_rows)(file)


def read_record(value: Any, root: str | None = None) -> tuple[dict[str, Any], list[str], Conversation]:
    """A record of any form as LLaVA has it, its pictures (names, or ``data:`` URLs) and its messages.

    Args:
        value: what JSON says.
        root: where absolute names may lead; None: nowhere.

    Raises:
        UnusableRecord: saying why it cannot be used.
    """
    record = as_llava(value)
    names = _names(record, root)
    return record, names, record_messages(record, len(names))


def picture_folder(file: Path) -> Path:
    """Where the pictures of a list lie that nobody says anything else of: ``images/`` beside it, or beside it."""
    images = file.parent / "images"
    return images if images.is_dir() else file.parent


def _names(record: Any, root: str | None) -> list[str]:
    """The names of a record's pictures; ``root`` is where absolute ones may lead."""
    if not isinstance(record, dict):
        raise UnusableRecord(NO_TURNS, "it is no record")
    if not isinstance(record.get("id", ""), (str, int)):
        raise UnusableRecord(ID, "its id is neither text nor number")
    names = picture_names(record)
    if any(name.startswith(("http://", "https://")) for name in names):
        raise UnusableRecord(ADDRESS, "its images are addresses on the web")
    inside = [_below(root, name) for name in names if not name.startswith(DATA)]
    if root is None and any(name.startswith("/") for name in inside):
        raise UnusableRecord(ABSOLUTE, "its image names are absolute paths")
    if not all(map(leads_inside, inside)):
        raise UnusableRecord(OUTSIDE, "its image names are none or lead out of the images")
    return names


def _below(root: str | None, name: str) -> str:
    """An absolute name as one from ``root`` on, if it leads there; any other as it is."""
    start = None if root is None else os.path.join(root, "")
    return name[len(start) :] if start is not None and name.startswith(start) else name


def _split_name(record: dict[str, Any], names: Sequence[str], number: int) -> str:
    if names and names[0].startswith(DATA):
        return names[0]
    # no pathlib: it interns every name
    return posixpath.splitext(posixpath.basename(names[0]))[0] if names else str(record.get("id", number))


def _read(file: Path, start: int, size: int) -> bytes:
    try:
        with open_regular(file) as opened:
            return os.pread(opened.fileno(), size, start)
    except OSError as error:
        raise CorpusError(f"{file} cannot be read: {error}") from error
