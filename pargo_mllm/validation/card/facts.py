"""What a piece of a set holds, in counts that add up."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from pargo_mllm.data.corpus import shown
from pargo_mllm.data.pictures import PictureError, read_header
from pargo_mllm.validation.card.words import Spoken
from pargo_mllm.validation.findings import ERROR, KINDS, PicturePlace
from pargo_mllm.validation.pieces import Piece, Reading
from pargo_mllm.validation.samples import Sample, SamplePicture

# lengths that are told apart; longer ones are counted as one
LONGEST = 20_000
# different questions that are told apart: more are questions, fewer are ways to ask for a caption
QUESTIONS = 30
# of a shown sample: its turns, their characters, its pictures
TURNS, CHARACTERS, PICTURES = 6, 1500, 2
_OTHER = "records that training skips for another reason"


@dataclass(frozen=True)
class Shown:
    """A sample that the page shows; texts are cut to what it has room for.

    Args:
        key: its place in the order of chance.
        where: what a reader finds it by.
        turns: (who, what).
        more: turns that are not shown.
        pictures: where they lie.
    """

    key: str
    where: str
    turns: tuple[tuple[str, str], ...]
    more: int
    pictures: tuple[PicturePlace, ...]


@dataclass
class Facts:
    """Counts of samples; two of them can be added.

    Args:
        entries: what the files hold.
        samples: those that training reads.
        left: the others, by what is wrong with them.
        pictures: of each sample, counted by their number.
        turns: answers of each sample, counted by their number.
        characters, words: lengths of answers, counted; longer than :data:`LONGEST` count as that.
        sums: exact sums of both.
        files: 8 bytes a picture that tell it from others.
        formats: of pictures; None for what cannot be read.
        widths, heights: in pixels as stored, counted.
        shapes: "wide", "tall", "square".
        bytes: of all pictures.
        questions: hashes of different first questions, at most :data:`QUESTIONS` + 1.
        chosen: of all samples, those that chance puts first.
        broken: whether something behind this cannot be read.
    """

    entries: int = 0
    samples: int = 0
    left: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    pictures: Counter[int] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    characters: Counter[int] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    files: bytearray = field(default_factory=bytearray)
    formats: Counter[str] = field(default_factory=Counter)
    widths: Counter[int] = field(default_factory=Counter)
    heights: Counter[int] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    questions: set[int] = field(default_factory=set)
    spoken: Spoken = field(default_factory=Spoken)
    chosen: list[Shown] = field(default_factory=list)
    broken: bool = False

    def merge(self, other: Facts, samples: int) -> None:
        """Add another piece's; ``samples`` of the chosen ones are kept."""
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            if isinstance(mine, Spoken):
                mine.merge(theirs)
            elif isinstance(mine, (Counter, set)):
                mine.update(theirs)
            elif one.name == "broken":
                self.broken |= theirs
            else:
                setattr(self, one.name, mine + theirs)
        self.settle(samples)

    def settle(self, samples: int) -> None:
        """Keep no more than is told."""
        self.chosen = sorted(self.chosen, key=lambda shown: shown.key)[:samples]
        self.questions = set(sorted(self.questions)[: QUESTIONS + 1])


def gather(piece: Piece, seed: int, samples: int) -> Facts:
    """The facts of a piece."""
    facts, reading = Facts(), Reading()
    known: dict[tuple[Any, ...], _Picture | None] = {}
    for sample in piece.samples(reading):
        facts.entries += 1
        if sample.conversation is None:
            facts.left[next((KINDS[one.kind].what for one in sample.found if one.severity == ERROR), _OTHER)] += 1
            continue
        _add(sample, facts, known)
        facts.chosen.append(_shown(sample, seed))
        if len(facts.chosen) > 2 * samples:
            facts.settle(samples)
    facts.settle(samples)
    for tops in facts.spoken.all():
        tops.cut()
    for one in reading.found:
        if one.kind == "entry_left_out":
            facts.entries += one.count
            facts.left[one.detail] += one.count
    facts.broken = bool(reading.ended or any(one.kind in ("file_broken", "shard_broken") for one in reading.found))
    return facts


def _add(sample: Sample, facts: Facts, known: dict[tuple[Any, ...], _Picture | None]) -> None:
    said = sample.answers()
    facts.samples += 1
    facts.answers += len(said)
    facts.turns[len(said)] += 1
    for answer in said:
        words = len(answer.split())
        facts.characters[min(len(answer), LONGEST)] += 1
        facts.words[min(words, LONGEST)] += 1
        facts.sums["characters"] += len(answer)
        facts.sums["words"] += words
    asked = next(iter(sample.pairs()), ("", ""))[0]
    if len(facts.questions) <= QUESTIONS:
        facts.questions.add(int.from_bytes(_hash(" ".join(asked.split())), "little"))
    facts.spoken.add(said)
    facts.pictures[len(sample.pictures)] += 1
    for picture in sample.pictures:
        place = (str(picture.file), picture.place, picture.content is None)
        if place not in known or picture.content is not None:
            # about as many as a shard has
            if len(known) > 20_000:
                known.clear()
            known[place] = _look(picture)
            facts.files += _hash(str(place)) if picture.content is None else hashlib.sha256(picture.content).digest()[:8]
        _add_picture(known[place], facts)


@dataclass(frozen=True)
class _Picture:
    format: str
    size: tuple[int, int]
    bytes: int


def _look(picture: SamplePicture) -> _Picture | None:
    try:
        with picture.opened() as (file, size):
            header = read_header(file, shown(picture.name))
    except (OSError, ValueError, PictureError):
        return None
    return _Picture(header.format, header.size, size)


def _add_picture(seen: _Picture | None, facts: Facts) -> None:
    if seen is None:
        facts.formats["unreadable"] += 1
        return
    width, height = seen.size
    facts.formats[seen.format] += 1
    facts.widths[width] += 1
    facts.heights[height] += 1
    facts.shapes["wide" if width > height else "tall" if height > width else "square"] += 1
    facts.bytes += seen.bytes


def _shown(sample: Sample, seed: int) -> Shown:
    where = f"{sample.file}, byte {sample.byte:,}" if sample.byte is not None else sample.file
    key = hashlib.sha256(f"{seed}/{sample.file}/{sample.byte}/{sample.id}".encode("utf-8", "surrogatepass")).hexdigest()
    turns: list[tuple[str, str]] = []
    before = ""
    for asked, answer in sample.pairs():
        # captions are asked for again and again
        turns += [("asked", _cut(asked))] * (asked not in ("", before)) + [("answered", _cut(answer))]
        before = asked
    places = tuple(place for picture in sample.pictures[:PICTURES] if (place := picture.shown()) is not None)
    called = f" ({shown(sample.id)})" if sample.id is not None else ""
    return Shown(key, where + called, tuple(turns[:TURNS]), max(0, len(turns) - TURNS), places)


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…"


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]
