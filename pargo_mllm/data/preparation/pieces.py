"""The pieces of a preparation: a fixed number of entries each, planned once, done by whoever comes, in any order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tqdm.auto import tqdm

from pargo_mllm.data.preparation.entries import Entry, Skipped, from_line, to_line
from pargo_mllm.files import whole_file, write_whole

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
    """

    number: int
    work: Path
    source: Path
    out: Path
    shards: bool
    copy: bool = False
    fetch: bool = False

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
        write_whole(file, json.dumps(self.__dict__))

    @classmethod
    def read(cls, file: Path) -> Counts:
        """What :meth:`write` wrote."""
        told = json.loads(file.read_text())
        return cls(**{**told, "skipped": Counter(told["skipped"])})


NONE = Counts(0, 0, Counter())


def plan(entries: Iterable[Entry | Skipped], work: Path, per_piece: int, title: str) -> int:
    """Write the plan of every piece; how many there are. What was planned is planned once."""
    planned = work / PLANNED
    if planned.exists():
        return int(json.loads(planned.read_text()))
    number = 0
    with tqdm(desc=title, unit="entry", delay=1, dynamic_ncols=True) as bar:
        rest = iter(entries)
        while lines := [to_line(entry) for entry in islice(rest, per_piece)]:
            with whole_file(work / f"plan-{number:06d}.jsonl") as aside:
                aside.write_text("\n".join(lines), encoding="utf-8")
            number += 1
            bar.update(len(lines))
    write_whole(planned, json.dumps(number))
    return number
