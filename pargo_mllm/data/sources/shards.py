"""webdataset shards: tar files of pictures and texts, read by number."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import weakref
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pargo_mllm.data.corpus import (
    PICTURE_LENGTH,
    Conversation,
    CorpusError,
    Example,
    Tally,
    about_image,
    all_skipped,
    counted,
    is_text,
    shown,
)
from pargo_mllm.data.held_out import Split
from pargo_mllm.data.pictures import PictureError, decode_picture, upright_size
from pargo_mllm.data.sources.json_rows import parse_json
from pargo_mllm.data.sources.llava_records import MARK, TURNS, UnusableRecord, check_media, llava_conversation
from pargo_mllm.data.sources.opening import open_regular
from pargo_mllm.data.sources.photographs_folder import CAPTION_PROMPT
from pargo_mllm.data.sources.record_forms import as_llava
from pargo_mllm.data.sources.region_file import RegionFile, regions_of, told_of
from pargo_mllm.data.sources.shard_index import find_index, indexes, left_out, num_samples
from pargo_mllm.files import whole_file

# what a preparation writes beside the records
ABOUT = "about.json"
# shards that a process keeps open: a window of the order, and some more
MAX_OPEN = 24
# bytes
MAX_TEXT = 2**24
MAX_PICTURE = 2**28


@dataclass(frozen=True)
class RawSample:
    """A sample as its shard has it.

    Args:
        texts: by suffix, "json" or "txt".
        pictures: in their order.
    """

    key: str
    texts: dict[str, bytes]
    pictures: list[bytes]


class ShardCorpus:
    """Samples of tar shards. A sample is what follows each other in a tar under one key, its names without their extensions::

        000123.jpg  000123.json            a record of any form (record_forms.py), or {"caption": "..."}
        000124.jpg  000124.txt             the caption; .text and .caption are as good
        000125.0.jpg  000125.1.jpg  ...    several pictures, by number, beside 000125.json

    A key may hold dots: ``a.0.jpg`` beside ``a.0.txt`` is a sample of its own. Names inside the tar and inside the JSON are
    only names; nothing is opened by them. Samples that lack something, and members with other extensions, are left out and
    counted.

    Headers are scanned once; what was found is kept beside each shard as ``<shard>.index``, or in ``index_folder`` where that
    cannot be written. Memory holds one number a shard, and maps the indexes of the shards in use.

    Args:
        path: a folder of ``*.tar``, or one tar file; not compressed.
        prompt: what a caption is asked for with.
        split: "train", or "test" for the share that is held out.
        held_out: this share of the samples is held out, chosen by a hash of their keys. Each index is sorted by that hash, so
            that both sides are a run of its rows: nothing is listed in memory, and every shard gives to both.
        index_folder: where indexes go that cannot be written beside their shard.
        regions: what is where in its pictures. A picture is called as its sample's key is; of several, ``key.0``, ``key.1``, …

    Raises:
        CorpusError: if there is no shard, a shard is no complete uncompressed tar, an index can be written nowhere, or the
            split is empty.
        ValueError: for a prompt that holds ``<image>``; see also :class:`pargo_mllm.data.held_out.Split`.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        prompt: str = CAPTION_PROMPT,
        split: str = "train",
        held_out: float = 0.0,
        index_folder: str | os.PathLike | None = None,
        regions: RegionFile | None = None,
    ):
        if MARK in prompt:
            raise ValueError(f"prompt={prompt!r} must not hold {MARK}; a caption's picture stands in front of it.")
        self.path, self.prompt, self.split = Path(path), prompt, Split(split, held_out)
        self.index_folder = None if index_folder is None else Path(index_folder)
        self.regions = regions
        self.shards = _shards_of(self.path)
        # damage inside a member is found, and named, when a sample is read
        left: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        members, used_members, other_side = 0, 0, 0
        self._first, self._counts = np.zeros((2, len(self.shards)), dtype=np.int64)
        content = np.zeros((len(self.shards), 2), dtype="<u8")
        for number, rows in indexes(self.shards, self.index_folder):
            border = _count_below(rows, self.split.border)
            self._first[number] = 1 + (border if split == "train" else 0)
            self._counts[number] = num_samples(rows) - border if split == "train" else border
            other_side += num_samples(rows) - int(self._counts[number])
            for counter, reasons in zip(left, left_out(rows), strict=True):
                counter.update(reasons)
            members, used_members = members + int(rows[0]["pictures"][0, 0]), used_members + int(rows[0]["pictures"][0, 1])
            content[number] = rows[0]["json"][0], rows[0]["hash"]
        digest = hashlib.sha256("/".join(shard.name for shard in self.shards).encode("utf-8", "surrogateescape"))
        digest.update(content.tobytes())
        self._content = digest.hexdigest()
        self._ends = np.cumsum(self._counts)
        self._open: dict[int, _OpenShard] = {}
        used = int(self._counts.sum())
        self.tallies: Mapping[str, Tally] = {
            "samples": Tally(used + other_side + left[0].total(), used, other_side, left[0]),
            # those of both sides are used
            "members": Tally(members, used_members, skipped=left[1]),
            "files": _files(self.path, self.shards),
        }
        entries = self.tallies["samples"].entries
        if not entries:
            raise CorpusError(f"{self.path} holds no sample{counted(self.skipped)}.")
        if not used:
            raise CorpusError(
                f"{self.path} has no sample for split={split!r} with held_out={held_out}: of {entries:,} samples "
                f"{other_side:,} are on the other side{counted(self.skipped)}."
            )

    @property
    def skipped(self) -> Counter[str]:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""
        return all_skipped(self.tallies)

    @property
    def parts(self) -> Sequence[int]:
        """See :class:`pargo_mllm.data.corpus.Corpus`: samples a shard."""
        return self._counts.tolist()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Example:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""
        number, row = self._find(index)
        shard = self._shard(number)
        name = f"{shown(shard.path.name)}: {shown(row['key'].decode('utf-8', 'replace'))}"
        places = [(int(offset), int(size)) for offset, size in row["pictures"] if offset]
        conversation = self._conversation(shard, row, len(places), name)
        pictures = tuple(partial(self._picture, number, place, f"{name}, picture {n}") for n, place in enumerate(places))
        sizes = tuple(partial(self._size, number, place, f"{name}, picture {n}") for n, place in enumerate(places))
        regions = regions_of(self.regions, _picture_names(row), sizes)
        return Example(name, (conversation,), pictures, regions=regions)

    def raw(self, index: int) -> RawSample:
        """A sample's members as they stand in its shard.

        Raises:
            CorpusError: if the shard does not hold them any more.
        """
        number, row = self._find(index)
        shard = self._shard(number)
        name = f"{shown(shard.path.name)}: {shown(row['key'].decode('utf-8', 'replace'))}"
        texts = {
            suffix: shard.read(row[suffix], MAX_TEXT, f"{name}.{suffix}", CorpusError)
            for suffix in ("json", "txt")
            if row[suffix][0]
        }
        pictures = [
            shard.read(place, MAX_PICTURE, f"{name}, picture {n}", CorpusError)
            for n, place in enumerate(row["pictures"])
            if place[0]
        ]
        return RawSample(row["key"].decode("utf-8", "replace"), texts, pictures)

    def key(self, index: int) -> str:
        """The key of a sample, damaged or not.

        Raises:
            CorpusError: if the shard is not the one that was opened.
        """
        return self._find(index)[1]["key"].decode("utf-8", "replace")

    def picture_names(self, index: int) -> list[str]:
        """What a region file calls the pictures of a sample.

        Raises:
            CorpusError: if the shard is not the one that was opened.
        """
        _, row = self._find(index)
        return _picture_names(row)

    def offset(self, index: int) -> int:
        """Where the first member of a sample lies in its shard, in bytes."""
        _, row = self._find(index)
        return min(int(place[0]) for place in (row["json"], row["txt"], *row["pictures"]) if place[0])

    def length_hint(self, index: int) -> int:
        """See :class:`pargo_mllm.data.corpus.Corpus`: bytes of the text, a picture taken for :data:`PICTURE_LENGTH`."""
        _, row = self._find(index)
        text = row["json"] if row["json"][0] else row["txt"]
        return int(text[1]) + PICTURE_LENGTH * int(np.count_nonzero(row["pictures"][:, 0]))

    def settings(self) -> dict[str, Any]:
        """See :class:`pargo_mllm.data.corpus.Corpus`. A copy of the shards is the same content."""
        split = {"split": self.split.name, "held_out": self.split.held_out}
        return {"corpus": "shards", "content": self._content, "prompt": self.prompt, **split, **told_of(self.regions)}

    def __getstate__(self) -> dict[str, Any]:
        # open files stay with the process that opened them
        return {**self.__dict__, "_open": {}}

    def _find(self, index: int) -> tuple[int, np.void]:
        """(number of the shard, row of the sample)."""
        if not 0 <= index < len(self):
            raise IndexError(f"index={index} must be from 0 to {len(self) - 1}.")
        number = int(np.searchsorted(self._ends, index, side="right"))
        row = self._first[number] + index - (self._ends[number] - self._counts[number])
        return number, self._shard(number).rows[row]

    def _shard(self, number: int) -> _OpenShard:
        shard = self._open.pop(number, None) or _OpenShard(self.shards[number], self._rows(self.shards[number]))
        # the last one inserted is the newest; one that is dropped closes when its last reader lets go of it
        self._open[number] = shard
        if len(self._open) > MAX_OPEN:
            del self._open[next(iter(self._open))]
        return shard

    def _rows(self, shard: Path) -> np.ndarray:
        rows = find_index(shard, self.index_folder)
        if rows is None:
            raise CorpusError(f"{shard} or its index has changed since it was opened; start again.")
        return rows

    def _conversation(self, shard: _OpenShard, row: np.void, pictures: int, name: str) -> Conversation:
        record: Any = {}
        if row["json"][0]:
            record = parse_json(shard.read(row["json"], MAX_TEXT, f"{name}.json", CorpusError), f"{name}.json")
        if not isinstance(record, dict):
            raise CorpusError(
                f"{name}.json is a {type(record).__name__}; it must be an object with conversations or a caption."
            )
        try:
            record = as_llava(record)
        except UnusableRecord as error:
            raise CorpusError(f"{name}: {error}.") from error
        if any(key in record for key in TURNS):
            return llava_conversation(record, pictures, name)
        caption = record.get("caption")
        if caption is None and row["txt"][0]:
            caption = _decode(shard.read(row["txt"], MAX_TEXT, f"{name}.txt", CorpusError), f"{name}.txt")
        if not isinstance(caption, str) or not caption.strip() or MARK in caption:
            raise CorpusError(
                f"{name} says nothing that can be learned: its .txt or .json must hold a caption, without {MARK}, or the .json "
                "conversations. Members of a sample must follow each other."
            )
        try:
            check_media(record, caption)
        except UnusableRecord as error:
            raise CorpusError(f"{name}: {error}.") from error
        if pictures != 1:
            raise CorpusError(
                f"{name} has {pictures} pictures; a caption is about one, which must stand next to it in the tar."
            )
        if not is_text([caption]):
            raise CorpusError(f"{name} has a caption with half a character (a lone surrogate, such as \\ud83d).")
        return about_image(self.prompt, caption.strip())

    def _picture(self, number: int, place: tuple[int, int], name: str) -> Image.Image:
        return decode_picture(self._shard(number).read(place, MAX_PICTURE, name, PictureError), name)

    def _size(self, number: int, place: tuple[int, int], name: str) -> tuple[int, int]:
        return upright_size(self._shard(number).read(place, MAX_PICTURE, name, PictureError), name)


class _OpenShard:
    """A shard and its index. Reads name their place and move nothing: processes and threads may share it."""

    def __init__(self, path: Path, rows: np.ndarray):
        self.path, self.rows = path, rows
        try:
            file = open_regular(path)
        except OSError as error:
            raise CorpusError(f"{path} cannot be read: {error}") from error
        weakref.finalize(self, file.close)
        self._file, self._size = file, os.fstat(file.fileno()).st_size

    def read(self, place: Sequence[int], most: int, name: str, kind: type[ValueError]) -> bytes:
        """The bytes at (offset, size); an error of ``kind`` if there are more than ``most`` or the shard does not hold them."""
        offset, size = (int(number) for number in place)
        if not 0 <= size <= most:
            raise kind(f"{name} takes {size:,} bytes; at most {most:,} are read.")
        if not 0 <= offset <= self._size - size:
            raise kind(f"{name} is not inside {self.path}.")
        try:
            content = os.pread(self._file.fileno(), size, offset)
        except OSError as error:
            raise kind(f"{name} cannot be read from {self.path}: {error}") from error
        if len(content) < size:
            raise kind(f"{name} cannot be read from {self.path}: it ends early.")
        return content


def _picture_names(row: np.void) -> list[str]:
    name, count = row["key"].decode("utf-8", "replace"), int(np.count_nonzero(row["pictures"][:, 0]))
    return [name] if count == 1 else [f"{name}.{number}" for number in range(count)]


def write_shards(
    samples: Iterable[tuple[str, Mapping[str, bytes]]], folder: str | os.PathLike, per_shard: int = 10_000
) -> list[Path]:
    """Write samples into ``folder`` as ``000000.tar``, ``000001.tar``, …, byte for byte.

    Args:
        samples: the key of each and its members by suffix: ``("000123", {"jpg": ..., "json": ...})``.
        per_shard: samples of a shard.

    Raises:
        ValueError: for a key or suffix that would not be read as it was given (a dot or ``/`` inside), and for two samples of
            one key in sequence.
        FileExistsError: if a shard of that name is there already.
    """
    written: list[Path] = []
    before = None
    for number, chunk in groupby(enumerate(samples), lambda numbered: numbered[0] // per_shard):
        shard = Path(folder) / f"{number:06d}.tar"
        if shard.exists():
            raise FileExistsError(f"{shard} is there already; write into an empty folder.")
        shard.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(shard) as aside, tarfile.TarFile(aside, "w", format=tarfile.GNU_FORMAT) as tar:
            for _, (key, members) in chunk:
                if key == before or not re.fullmatch(r"[^./]+", key):
                    raise ValueError(f"key {key!r} must hold neither '.' nor '/', and differ from the one before it.")
                before = key
                for suffix, content in members.items():
                    if not re.fullmatch(r"[^/]+", suffix):
                        raise ValueError(f"suffix {suffix!r} of {key!r} must be one like 'jpg', 'txt' or 'json'.")
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))
        written.append(shard)
    return written


def _shards_of(path: Path) -> list[Path]:
    shards = sorted(file for file in path.iterdir() if is_shard(file)) if path.is_dir() else [path]
    if not shards:
        raise CorpusError(f"{path} holds no *.tar{counted(_files(path, []).skipped)}.")
    return shards


def is_shard(file: Path) -> bool:
    """Whether a name is that of a shard; whether it is one is seen when it is read."""
    return file.suffix.lower() == ".tar" and not file.name.startswith(".")


def _files(path: Path, shards: Sequence[Path]) -> Tally:
    """The shards and what lies beside them."""
    if not path.is_dir():
        return Tally(1, 1)
    names = {shard.name for shard in shards}
    # indexes are ours, those too that another process is writing, and what a preparation says of its shards
    ours = {*names, *(f"{name}.index" for name in names), ABOUT}
    others = [file.name for file in path.iterdir() if file.name not in ours and not file.name.endswith(".partial.index")]
    packed = sum(name.lower().endswith((".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")) for name in others)
    reasons = {
        "compressed shards (unpack them to .tar)": packed,
        "files and folders beside the shards": len(others) - packed,
    }
    return Tally(len(names) + len(others), len(names), skipped=+Counter(reasons))


def _count_below(rows: np.ndarray, border: int) -> int:
    """How many samples have a smaller hash; few rows of the sorted index are looked at."""
    return bisect_left(range(1, 1 + num_samples(rows)), border, key=lambda row: int(rows[row]["hash"]))


def _decode(text: bytes, name: str) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{name} is no text in UTF-8: {error}") from error
