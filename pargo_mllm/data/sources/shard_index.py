"""What lies where in a tar shard: scanned once, kept beside it, mapped into memory afterwards.

An index is one NumPy array, a row a sample, sorted by the hash of the samples' keys; row 0 describes the shard itself. It is
only used as long as the shard's size and time of modification are the ones it was made from.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.held_out import name_hash
from pargo_mllm.files import whole_file

VERSION = 1
MAX_PICTURES = 32
# bytes: what a tar may spend on the headers of one member, on filling up behind its end, and what is kept of a key (its end)
_MAX_HEADER, _MAX_FILLING, _MAX_KEY = 2**20, 2**20, 200
_BLOCK = 512

# the key ends at the first dot of the file's name, as webdataset has it
_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_PICTURE = re.compile(r"(?:(\d{1,9})\.)?(?:jpe?g|png|webp|bmp|gif|tiff?)")

# why a sample cannot be used, by what its row says
PROBLEMS = {
    1: "two members have the same name",
    2: f"there are more than {MAX_PICTURES} pictures",
    3: "a member is no regular file",
}


def index_dtype(pictures: int, key: int) -> np.dtype:
    """A row: the places of members are (offset in the shard, bytes), both 0 for what a sample lacks.

    In row 0, ``json`` holds the shard's size and time of modification in ns, ``txt`` the version of this format, and ``hash`` a
    hash of all other rows.

    Args:
        pictures: the most that a sample has.
        key: bytes of the longest key.
    """
    place = ("<i8", (2,))
    return np.dtype(
        [
            ("hash", "<u8"),
            ("json", *place),
            ("txt", *place),
            ("pictures", "<i8", (max(pictures, 1), 2)),
            ("problem", "u1"),
            ("key", f"S{max(key, 1)}"),
        ]
    )


def find_index(shard: Path, folder: Path | None) -> np.ndarray | None:
    """The rows of a shard's index, mapped into memory; None where there is none, or only that of another state of the shard.

    Args:
        folder: where the index may lie if not beside the shard.

    Raises:
        CorpusError: if the shard itself is missing.
    """
    try:
        status = shard.stat()
    except OSError as error:
        raise CorpusError(f"{shard} cannot be read: {error}") from error
    found = (_load(file, status) for file in _places(shard, folder))
    return next((rows for rows in found if rows is not None), None)


def indexes(shards: Sequence[Path], folder: Path | None) -> Iterator[tuple[int, np.ndarray]]:
    """(number, rows of the index) of every shard, in any order. What is missing is made: beside its shard, or in ``folder``
    where that cannot be written.

    Raises:
        CorpusError: naming the shard, if it is damaged, or its index can be written nowhere.
    """
    numbers = list(range(len(shards)))
    # several ranks begin at once: in an order of its own, each soon meets what the others have made
    random.Random(os.getpid()).shuffle(numbers)
    for number in tqdm(numbers, desc="indexing shards", unit="shard", delay=1, dynamic_ncols=True):
        rows = find_index(shards[number], folder)
        if rows is None:
            rows = scan_shard(shards[number])
            _write_somewhere(shards[number], folder, rows)
        yield number, rows


def scan_shard(shard: Path) -> np.ndarray:
    """The index of a shard, from the headers of its members.

    Raises:
        CorpusError: naming the shard, if it is no tar, is compressed, truncated or damaged.
    """
    try:
        with open(shard, "rb", buffering=0) as raw:
            status = os.fstat(raw.fileno())
            runs = groupby(_members(raw, status.st_size), lambda member: member.key)
            samples = [sample for sample in (_sample(key, members) for key, members in runs) if sample is not None]
    # the parser meets a stranger's bytes, and its errors are of every kind
    except Exception as error:
        raise CorpusError(f"{shard} cannot be read as a tar shard (uncompressed, complete): {error}") from error
    most = max((len(sample.pictures) for sample in samples), default=0)
    rows = np.zeros(1 + len(samples), index_dtype(most, max((len(sample.key) for sample in samples), default=0)))
    absent = [(0, 0)] * rows["pictures"].shape[1]
    for row, sample in enumerate(samples, start=1):
        places = [*sample.pictures, *absent[len(sample.pictures) :]]
        rows[row] = (sample.hash, sample.json, sample.txt, places, sample.problem, sample.key)
    rows[1:] = rows[1:][np.argsort(rows["hash"][1:], kind="stable")]
    content = int.from_bytes(hashlib.sha256(rows[1:].tobytes()).digest()[:8], "little")
    rows[0]["hash"], rows[0]["json"], rows[0]["txt"] = content, (status.st_size, status.st_mtime_ns), (VERSION, 0)
    return rows


def _places(shard: Path, folder: Path | None) -> list[Path]:
    beside = shard.with_name(f"{shard.name}.index")
    if folder is None:
        return [beside]
    # shards of several corpora may have the same name
    origin = hashlib.sha256(os.fsencode(shard.resolve().parent)).hexdigest()[:12]
    return [beside, folder / f"{shard.name}-{origin}.index"]


def _load(file: Path, status: os.stat_result) -> np.ndarray | None:
    if not file.is_file():
        return None
    try:
        rows = np.load(file, mmap_mode="r", allow_pickle=False)
        pictures, key = rows.dtype["pictures"].shape[0], rows.dtype["key"].itemsize
        fits = rows.ndim == 1 and len(rows) > 0 and rows.dtype == index_dtype(pictures, key)
        known = [rows[0]["json"].tolist(), rows[0]["txt"].tolist()] if fits else None
    # a file from a stranger: NumPy raises whatever its parser stumbles over
    except Exception:
        return None
    return rows if known == [[status.st_size, status.st_mtime_ns], [VERSION, 0]] else None


def _write_somewhere(shard: Path, folder: Path | None, rows: np.ndarray) -> None:
    problems = []
    for file in _places(shard, folder):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            return _write(file, rows)
        except OSError as error:
            problems.append(str(error))
    raise CorpusError(f"the index of {shard} cannot be written ({'; '.join(problems)}); give an index_folder that can be.")


def _write(file: Path, rows: np.ndarray) -> None:
    with whole_file(file, shared=True) as aside, open(aside, "xb") as opened:
        np.save(opened, rows, allow_pickle=False)


class _Member(NamedTuple):
    """A member of a sample; what is no regular file has no place."""

    key: str
    suffix: str
    place: tuple[int, int] | None


class _Sample(NamedTuple):
    """A row of the index."""

    hash: int
    json: tuple[int, int]
    txt: tuple[int, int]
    pictures: list[tuple[int, int]]
    problem: int
    key: bytes


def _members(raw: io.FileIO, size: int) -> Iterator[_Member]:
    """The members that can belong to a sample."""
    file = _Headers(raw)
    with tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape") as tar:
        end = 0
        while True:
            file.budget = _MAX_HEADER
            member = tar.next()
            if member is None:
                break
            # tarfile keeps every member it has seen
            tar.members.clear()  # type: ignore[attr-defined]
            # older tarfiles go round in circles here
            if member.size < 0 or member.offset < end:
                raise tarfile.ReadError(f"member {member.name!r} ends before it begins")
            end = member.offset_data
            matched = _MEMBER.fullmatch(member.name)
            if matched and not member.isdir():
                regular = member.isreg() and member.sparse is None
                yield _Member(matched[1], matched[2].lower(), (member.offset_data, member.size) if regular else None)
        _check_end(raw, tar.offset, size)


def _check_end(raw: io.FileIO, offset: int, size: int) -> None:
    """tarfile takes a damaged header for the end: see that the end is one."""
    if size - offset < _BLOCK:
        raise tarfile.ReadError("it is truncated: the mark of its end is missing")
    if size - offset > _MAX_FILLING or any(os.pread(raw.fileno(), _MAX_FILLING, offset)):
        raise tarfile.ReadError(f"byte {offset:,} begins neither a member nor the end of the file")


class _Headers(io.BufferedReader):
    """A shard of which only headers are read; a header that claims to be huge takes no memory."""

    budget = _MAX_HEADER

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > self.budget:
            raise tarfile.ReadError(f"the headers of a member take more than {_MAX_HEADER:,} bytes")
        self.budget -= size
        return super().read(size)


def _sample(key: str, members: Iterable[_Member]) -> _Sample | None:
    """What the index says of a sample, or None if no member of it means anything here."""
    texts: dict[str, tuple[int, int]] = {}
    pictures: list[tuple[int, tuple[int, int]]] = []
    problem = 0
    seen = set()
    for _, suffix, place in members:
        matched = _PICTURE.fullmatch(suffix)
        if suffix not in ("json", "txt") and not matched:
            continue
        problem = problem or (1 if suffix in seen else 3 if place is None else 0)
        seen.add(suffix)
        if matched:
            pictures.append((int(matched[1] or -1), place or (0, 0)))
        else:
            texts[suffix] = place or (0, 0)
    if not seen:
        return None
    if len(pictures) > MAX_PICTURES:
        problem, pictures = 2, []
    places = [place for _, place in sorted(pictures)]
    kept = key.encode("utf-8", "surrogateescape").replace(b"\0", b"?")[-_MAX_KEY:]
    # the folder inside the tar says nothing about a sample
    name = key.rsplit("/", 1)[-1]
    return _Sample(name_hash(name), texts.get("json", (0, 0)), texts.get("txt", (0, 0)), places, problem, kept)
