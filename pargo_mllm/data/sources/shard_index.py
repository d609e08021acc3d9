"""What lies where in a tar shard: scanned once, kept beside it, mapped into memory afterwards.

An index is one NumPy array. Row 0 describes the shard; then comes a row for each sample that can be used, sorted by the hash of
their keys; then a row for each reason for which samples or members are left out, with their number. It is only used as long as
the shard's size and time of modification, and the rules by which it was made, are the ones that it was made from.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.held_out import name_hash
from pargo_mllm.data.sources.opening import open_regular
from pargo_mllm.data.sources.shard_samples import (
    EXTENSION,
    OF_SAMPLES,
    OTHER,
    REASONS,
    RULES,
    UNUSED,
    LeftOut,
    Member,
    Sample,
    samples_of,
)
from pargo_mllm.files import whole_file

# of this format, and of what makes members a sample
VERSION = int.from_bytes(hashlib.sha256(f"2 {RULES}".encode()).digest()[:6], "little")
# bytes: what a tar may spend on the headers of one member, on filling up behind its end, and what is kept of a key (its end)
_MAX_HEADER, _MAX_FILLING, _MAX_KEY = 2**20, 2**20, 200
_BLOCK = 512
# how many extensions are told apart
_MAX_EXTENSIONS = 64


def index_dtype(pictures: int, key: int) -> np.dtype:
    """A row: the places of members are (offset in the shard, bytes), both 0 for what a sample lacks.

    In row 0, ``json`` holds the shard's size and time of modification in ns, ``txt`` the version of this format and the number
    of samples, ``pictures`` first (members, members of these samples), and ``hash`` the :func:`content_hash`. Behind the
    samples, ``problem`` is the number of a reason for which some are left out, from 1 on; ``json`` begins with how many these
    are, and ``key`` is the extension where the reason is one.

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
        # once, not whenever a shard is opened again: a disk that lost some bytes must not give other texts
        if rows is None or int(rows[0]["hash"]) != content_hash(rows):
            rows = scan_shard(shards[number])
            _write_somewhere(shards[number], folder, rows)
        yield number, rows


def shard_samples(shard: Path) -> Iterator[Sample | LeftOut]:
    """The samples of a shard in the order of their members, and what is left out; nothing is written beside it.

    Raises:
        CorpusError: as :func:`scan_shard`.
    """
    try:
        with open_regular(shard) as raw:
            yield from _found(raw, os.fstat(raw.fileno()).st_size)
    # the parser meets a stranger's bytes, and its errors are of every kind
    except Exception as error:
        raise _no_shard(shard, error) from error


def scan_shard(shard: Path) -> np.ndarray:
    """The index of a shard, from the headers of its members.

    Raises:
        CorpusError: naming the shard, if it is no tar, is compressed, truncated or damaged.
    """
    samples: list[Sample] = []
    left: Counter[tuple[str, str]] = Counter()
    members = used = 0
    try:
        with open_regular(shard) as raw:
            status = os.fstat(raw.fileno())
            for found in _found(raw, status.st_size):
                members += found.members
                if isinstance(found, Sample):
                    samples.append(found)
                    used += found.members
                elif found.is_sample:
                    left[found.reason, ""] += 1
                    left[UNUSED, ""] += found.members
                else:
                    why = (found.reason, found.extension)
                    # a stranger can invent any number of them
                    is_told = not found.extension or why in left or len(left) < _MAX_EXTENSIONS
                    left[why if is_told else (OTHER, "")] += found.members
    # the parser meets a stranger's bytes, and its errors are of every kind
    except Exception as error:
        raise _no_shard(shard, error) from error
    reasons = [(1 + REASONS.index(reason), count, end.encode()) for (reason, end), count in sorted(left.items())]
    keys = [sample.key.encode("utf-8", "surrogateescape").replace(b"\0", b"?")[-_MAX_KEY:] for sample in samples]
    most = max((len(sample.pictures) for sample in samples), default=0)
    longest = max(map(len, (*keys, *(end for _, _, end in reasons))), default=0)
    rows = np.zeros(1 + len(samples) + len(reasons), index_dtype(most, longest))
    absent = [(0, 0)] * rows["pictures"].shape[1]
    for row, (sample, key) in enumerate(zip(samples, keys, strict=True), start=1):
        places = [*sample.pictures, *absent[len(sample.pictures) :]]
        # the folder inside the tar says nothing about a sample
        rows[row] = (name_hash(sample.key.rsplit("/", 1)[-1]), sample.json, sample.txt, places, 0, key)
    end = 1 + len(samples)
    rows[1:end] = rows[1:end][np.argsort(rows["hash"][1:end], kind="stable")]
    for row, (reason, count, extension) in enumerate(reasons, start=end):
        rows[row] = (0, (count, 0), (0, 0), absent, reason, extension)
    rows[0]["json"], rows[0]["txt"] = (status.st_size, status.st_mtime_ns), (VERSION, len(samples))
    rows[0]["pictures"][0] = members, used
    rows[0]["hash"] = content_hash(rows)
    return rows


def shard_members(shard: Path) -> Iterator[Member]:
    """The members of a shard in their order, of which headers alone are read.

    Raises:
        CorpusError: if it is no complete uncompressed tar.
    """
    try:
        with open_regular(shard) as raw:
            yield from _members(raw, os.fstat(raw.fileno()).st_size)
    except Exception as error:
        raise CorpusError(f"{shard} cannot be read as a tar shard (uncompressed, complete): {error}") from error


def content_hash(rows: np.ndarray) -> int:
    """64 bits of what an index says of a shard's content, wherever that lies and however old it is."""
    digest = hashlib.sha256(f"{num_samples(rows)} {rows[0]['pictures'][0].tolist()}".encode())
    digest.update(np.ascontiguousarray(rows[1:]).view(np.uint8).data)
    return int.from_bytes(digest.digest()[:8], "little")


def num_samples(rows: np.ndarray) -> int:
    """How many samples an index holds, in rows 1, 2, …."""
    return int(rows[0]["txt"][1])


def left_out(rows: np.ndarray) -> tuple[Counter[str], Counter[str]]:
    """Samples, and members, that are left out, by reason."""
    samples: Counter[str] = Counter()
    members: Counter[str] = Counter()
    for row in rows[1 + num_samples(rows) :]:
        reason = REASONS[int(row["problem"]) - 1]
        told = reason.format(row["key"].decode("ascii", "replace")) if reason == EXTENSION else reason
        (samples if reason in OF_SAMPLES else members)[told] += int(row["json"][0])
    return samples, members


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
        known = [*rows[0]["json"].tolist(), int(rows[0]["txt"][0])] if fits else None
        fits = fits and 0 <= num_samples(rows) < len(rows)
        # behind the samples, reasons that there are
        fits = fits and bool(((rows["problem"][1 + num_samples(rows) :] - 1) < len(REASONS)).all())
    # a file from a stranger: NumPy raises whatever its parser stumbles over
    except Exception:
        return None
    return rows if fits and known == [status.st_size, status.st_mtime_ns, VERSION] else None


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


def _no_shard(shard: Path, error: Exception) -> CorpusError:
    return CorpusError(f"{shard} cannot be read as a tar shard (uncompressed, complete): {error}")


def _found(raw: io.FileIO, size: int) -> Iterator[Sample | LeftOut]:
    # a run is what webdataset takes for one sample, which may be several here
    for _, run in groupby(_members(raw, size), lambda member: member.run):
        yield from samples_of(run)


def _members(raw: io.FileIO, size: int) -> Iterator[Member]:
    """The members in their order."""
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
            regular = member.isreg() and member.sparse is None
            place = (member.offset_data, member.size) if regular else None
            yield Member(member.name, place, member.isdir())
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
