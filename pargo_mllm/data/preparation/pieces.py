"""The pieces of a preparation: a fixed number of entries each, planned once, done by whoever comes, in any order."""

from __future__ import annotations

import json
import posixpath
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from pargo_mllm.data.fetching import Address, is_public
from pargo_mllm.data.held_out import name_hash
from pargo_mllm.data.preparation.data_set import PreparationError
from pargo_mllm.data.preparation.entries import Entry, Skipped, from_line, to_line
from pargo_mllm.data.preparation.official_files import OfficialFiles
from pargo_mllm.data.sources.opening import named_file
from pargo_mllm.files import file_digest, whole_file, write_whole

PLANNED = "planned.json"


@dataclass(frozen=True)
class Piece:
    """Entries that one worker turns into records.

    Args:
        number: its place; what it writes is named after it.
        work: the folder of the job.
        source, out: folders.
        shards: whether it is a shard, or a part of a list with pictures beside it.
        copy: whether pictures are copied even where a hard link can be made.
        fetch: whether pictures may be downloaded.
        may_connect: from which machines, then; see :func:`pargo_mllm.data.fetching.fetch`.
        clashing: entries, by number, whose picture has the name of another one.
        repeated: entries, by number, whose id an earlier one has.
    """

    number: int
    work: Path
    source: Path
    out: Path
    shards: bool
    copy: bool = False
    fetch: bool = False
    may_connect: Callable[[Address], bool] = is_public
    clashing: tuple[int, ...] = ()
    repeated: tuple[int, ...] = ()

    @property
    def plan(self) -> Path:
        """The entries, one a line."""
        return self.work / f"plan-{self.number:06d}.jsonl"

    @property
    def records(self) -> Path:
        """What it writes: a shard, or lines of records."""
        return self.out / f"{self.number:06d}.tar" if self.shards else self.work / f"records-{self.number:06d}.jsonl"

    @property
    def done(self) -> Path:
        """Its counts, written when it is done."""
        return self.work / f"done-{self.number:06d}.json"

    def entries(self) -> list[Entry | Skipped]:
        """What was planned."""
        return [from_line(line) for line in self.plan.read_text(encoding="utf-8").splitlines()]


@dataclass(frozen=True)
class Counts:
    """What became of a piece's entries: ``records + skipped = entries``; characters of so many answers."""

    entries: int
    records: int
    skipped: Counter[str]
    characters: int = 0
    answers: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.entries + other.entries,
            self.records + other.records,
            self.skipped + other.skipped,
            self.characters + other.characters,
            self.answers + other.answers,
        )

    def write(self, file: Path) -> None:
        """As JSON."""
        with whole_file(file, shared=True) as aside:
            aside.write_text(json.dumps(self.__dict__), encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> Counts:
        """What :meth:`write` wrote."""
        told = json.loads(file.read_text())
        return cls(**{**told, "skipped": Counter(told["skipped"])})


NONE = Counts(0, 0, Counter())


@dataclass(frozen=True)
class Plan:
    """What was planned.

    Args:
        pieces: how many there are.
        sources: the files that were read: their names, bytes and times of modification, and the checksums of those that hold
            no pictures.
        clashing: of pieces that have some, entries whose picture has the name of another one.
        repeated: of pieces that have some, entries whose id an earlier one has.
    """

    pieces: int
    sources: list[dict[str, Any]]
    clashing: dict[str, list[int]]
    repeated: dict[str, list[int]]


def plan(entries: Iterable[Entry | Skipped], files: OfficialFiles, work: Path, per_piece: int, title: str) -> Plan:
    """Write the plan of every piece. What was planned is planned once, and goes for the files that it was made of.

    Raises:
        PreparationError: if a file is not what it was when the plan was made.
    """
    planned = work / PLANNED
    if planned.exists():
        made = Plan(**json.loads(planned.read_text()))
        for source in made.sources:
            _check(files.root, source["name"], (source["bytes"], source["time"]), work)
        return made
    names = _Names()
    number = 0
    with tqdm(desc=title, unit="entry", delay=1, dynamic_ncols=True) as bar:
        rest = iter(entries)
        while some := list(islice(rest, per_piece)):
            names.note(some, number * per_piece)
            with whole_file(work / f"plan-{number:06d}.jsonl") as aside:
                aside.write_text("\n".join(map(to_line, some)), encoding="utf-8")
            number += 1
            bar.update(len(some))
    clashing, repeated = (_by_piece(found, per_piece) for found in (names.clashing(), names.repeated()))
    made = Plan(number, _sources(files, work), clashing, repeated)
    write_whole(planned, json.dumps(made.__dict__))
    return made


def _by_piece(entries: Iterable[int], per_piece: int) -> dict[str, list[int]]:
    pieces: dict[str, list[int]] = {}
    for entry in entries:
        pieces.setdefault(str(entry // per_piece), []).append(entry % per_piece)
    return pieces


def _sources(files: OfficialFiles, work: Path) -> list[dict[str, Any]]:
    made_of = []
    for name, (size, time) in sorted(files.read.items()):
        source = {"name": name, "bytes": size, "time": time}
        if name not in files.containers:
            source["sha256"] = file_digest(named_file(files.root, name))
        _check(files.root, name, (size, time), work)
        made_of.append(source)
    return made_of


def _check(root: Path, name: str, was: tuple[int, int], work: Path) -> None:
    try:
        status = named_file(root, name).stat()
        now = (status.st_size, status.st_mtime_ns)
    except OSError:
        now = None
    if now != was:
        raise PreparationError(
            f"{root / name} is not what it was when {work.parent} was begun: remove that folder and begin anew, or bring the "
            "file back."
        )


class _Names:
    """Which pictures have the name of another one, and which entries the id, by 64 bits of each name, place and id: 40 bytes an
    entry.

    Names are taken for one that a disk may take for one: upper and lower case, accents spelled in two ways.
    """

    def __init__(self) -> None:
        self._entries, self._names, self._places = array("Q"), array("Q"), array("Q")
        self._with_id, self._ids = array("Q"), array("Q")

    def note(self, entries: Iterable[Entry | Skipped], first: int) -> None:
        for number, entry in enumerate(entries, first):
            if not isinstance(entry, Entry):
                continue
            self._with_id.append(number)
            self._ids.append(name_hash(entry.id))
            if entry.picture is not None:
                kind, place = entry.picture.kind, entry.picture.place
                known = [posixpath.normpath(place[0])] if kind == "file" else place
                self._entries.append(number)
                self._names.append(name_hash(_folded(entry.picture.name)))
                self._places.append(name_hash(json.dumps([kind, *known])))

    def clashing(self) -> list[int]:
        """Entries whose picture has a name that the picture of an entry before has, from another place."""
        entries, names, places = (np.frombuffer(one, dtype=np.uint64) for one in (self._entries, self._names, self._places))
        order, begins = _runs(names)
        first = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
        others = places[order] != places[order][first]
        return sorted(entries[order][others].tolist())

    def repeated(self) -> list[int]:
        """Entries with the id of an entry before."""
        entries, ids = (np.frombuffer(one, dtype=np.uint64) for one in (self._with_id, self._ids))
        order, begins = _runs(ids)
        return sorted(entries[order][~begins].tolist())


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An order in which equal values follow each other, the first of them first, and where in it another value begins."""
    order = np.argsort(values, kind="stable")
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = values[order][1:] != values[order][:-1]
    return order, begins


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", posixpath.normpath(name).casefold())
