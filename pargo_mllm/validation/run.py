"""A validation from beginning to end: pieces are looked at side by side, what they say is put together in their order."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pargo_mllm.jobs import Engine
from pargo_mllm.validation import repeats
from pargo_mllm.validation.box_checks import declared_frames, verdicts
from pargo_mllm.validation.division import DividedSet
from pargo_mllm.validation.findings import ERROR, KINDS, SEVERITIES, WARNING, Finding
from pargo_mllm.validation.lengths import lengths_of
from pargo_mllm.validation.looking import Seen, look
from pargo_mllm.validation.pieces import ListPiece, Piece
from pargo_mllm.validation.settings import Settings

EXAMPLES = 3
# exit statuses
CLEAN, ERRORS, WARNINGS = 0, 1, 3
_UNREAD = ("file_broken", "shard_broken", "not_a_list")


@dataclass
class Report:
    """What was found.

    Args:
        data: as it was asked for.
        form: of :class:`pargo_mllm.validation.division.DividedSet`.
        counts: findings by kind.
        examples: the first of each kind.
        tokens: (samples measured, their sum, the most); None where no model was given.
        complete: whether all of it could be looked at.
        seconds: that workers took together, ``decoding`` of it in pictures' pixels.
    """

    data: str
    form: str
    samples: int = 0
    usable: int = 0
    pictures: int = 0
    answers: int = 0
    characters: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Finding]] = field(default_factory=dict)
    unreadable: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    boxes: Counter[str] = field(default_factory=Counter)
    tokens: tuple[int, int, int] | None = None
    complete: bool = True
    seconds: float = 0.0
    decoding: float = 0.0

    def count(self, severity: str) -> int:
        """How many findings matter that much."""
        return sum(count for kind, count in self.counts.items() if KINDS[kind].severity == severity)

    def status(self, strict: bool = False) -> int:
        """The exit status; ``strict`` makes warnings errors."""
        if self.count(ERROR) or (strict and self.count(WARNING)):
            return ERRORS
        return WARNINGS if self.count(WARNING) else CLEAN

    @property
    def mean_characters(self) -> float | None:
        """Of an answer."""
        return self.characters / self.answers if self.answers else None

    def told(self, strict: bool = False) -> dict[str, Any]:
        """As JSON."""
        order = [kind for severity in SEVERITIES for kind in KINDS if KINDS[kind].severity == severity and self.counts[kind]]
        measured = None
        if self.tokens is not None and self.tokens[0]:
            measured = {"samples": self.tokens[0], "mean": round(self.tokens[1] / self.tokens[0], 2), "most": self.tokens[2]}
        return {
            "data": self.data,
            "form": self.form,
            "complete": self.complete,
            "samples": self.samples,
            "usable": self.usable,
            "pictures": self.pictures,
            "answers": self.answers,
            "mean_characters": None if self.mean_characters is None else round(self.mean_characters, 2),
            "tokens": measured,
            "record_forms": dict(sorted(self.forms.items())),
            **{f"{severity}s": self.count(severity) for severity in SEVERITIES},
            "status": self.status(strict),
            "findings": [
                {
                    "kind": kind,
                    "severity": KINDS[kind].severity,
                    "count": self.counts[kind],
                    "what": KINDS[kind].what,
                    "do": KINDS[kind].do,
                    "examples": [one.told() for one in self.examples[kind]],
                }
                for kind in order
            ],
        }


def validate(
    part: DividedSet,
    settings: Settings,
    engine: Engine,
    note: Callable[[Finding], None] = lambda finding: None,
    title: str | None = "validating",
) -> Report:
    """Look at all of a set.

    Args:
        note: is told every finding, in an order that does not depend on who looks.
        title: of the progress bar; none without one.

    Raises:
        UserError: if a model's folder is none, or near repeats cannot be looked for here.
    """
    if settings.near:
        repeats.check_installed()
    if settings.model is not None:
        # what is wrong with it is said before anything is looked at
        lengths_of(settings.model, settings.template)
    report = Report(str(part.path), part.form)
    gathered = _Gathered(part.form, part.lines)

    def add(finding: Finding) -> None:
        report.counts[finding.kind] += finding.count
        kept = report.examples.setdefault(finding.kind, [])
        if len(kept) < EXAMPLES:
            kept.append(finding)
        note(finding)

    for finding in part.found:
        add(finding)
    images: Counter[str] = Counter()
    for piece, seen in zip(part.pieces, engine.map(partial(look, settings=settings), part.pieces, title), strict=False):
        records, lines = gathered.behind(piece)
        for finding in seen.found:
            add(finding.behind(records, lines))
        _add_counts(report, seen)
        images += seen.images
        gathered.add(piece, seen)
        if seen.ended:
            report.complete = False
            break
    if report.complete:
        for finding in part.behind:
            add(finding)
        report.complete = not any(report.counts[kind] for kind in _UNREAD)
    for finding in gathered.repeats(settings.near):
        add(finding)
    for finding in _of_the_set(part, report, images):
        add(finding)
    return report


def _add_counts(report: Report, seen: Seen) -> None:
    for name in ("samples", "usable", "pictures", "answers", "characters"):
        setattr(report, name, getattr(report, name) + getattr(seen, name))
    report.unreadable += seen.unreadable
    report.forms += seen.forms
    report.boxes += seen.boxes
    count, total, most = report.tokens or (0, 0, 0)
    if seen.tokens[0]:
        report.tokens = (count + seen.tokens[0], total + seen.tokens[1], max(most, seen.tokens[2]))
    report.seconds += seen.looking
    report.decoding += seen.decoding


def _of_the_set(part: DividedSet, report: Report, images: Counter[str]) -> Iterable[Finding]:
    name = part.path.name
    for verdict in verdicts(report.boxes):
        yield Finding("set_frame", verdict, name)
    frames = declared_frames(report.boxes)
    if len(frames) > 1:
        yield Finding("frames_mixed", frames_told(frames), name)
    forms = {form: count for form, count in sorted(report.forms.items()) if form != "other"}
    if len(forms) > 1:
        yield Finding("several_forms", "; ".join(f"{count:,} {form}" for form, count in forms.items()), name)
    if len(images) > 1 and part.form == "list":
        yield Finding("image_forms", "; ".join(f"{count:,} {form}" for form, count in sorted(images.items())), name)
    if not report.samples and report.complete and not report.counts["not_a_list"]:
        yield Finding("no_record", "nothing is in it", name)


def frames_told(frames: Mapping[str, int]) -> str:
    """Records by the frame of their boxes, in words."""
    return "; ".join(f"{count:,} in {frame}" for frame, count in frames.items())


def compare_frames(reports: Sequence[Report], note: Callable[[str, Finding], None] = lambda data, finding: None) -> None:
    """Note of every part of a mixture whose boxes are in other frames than those of an earlier part."""
    first: Report | None = None
    for report in reports:
        frames = declared_frames(report.boxes)
        if first is None or not frames:
            first = report if frames else first
            continue
        others = declared_frames(first.boxes)
        if set(frames) != set(others):
            detail = f"{frames_told(frames)}; of {first.data} {frames_told(others)}"
            finding = Finding("frames_mixed", detail, Path(report.data).name)
            report.counts[finding.kind] += 1
            report.examples.setdefault(finding.kind, []).append(finding)
            note(report.data, finding)


class _Gathered:
    """What must be known of all samples together, some dozens of bytes of each."""

    def __init__(self, form: str, lines: int):
        self._form = form
        self._pieces: list[Piece] = []
        self._firsts: list[int] = []
        self._records, self._ids = bytearray(), bytearray()
        self._places, self._lines = array("q"), array("q")
        self._names, self._ends = bytearray(), array("q", [0])
        self._named = bytearray()
        self._content, self._looks, self._signatures = bytearray(), bytearray(), bytearray()
        self._owners, self._speakers = array("q"), array("q")
        self._line_ends = lines

    def behind(self, piece: Piece) -> tuple[int, int]:
        """Records and lines of the same file in front of this piece."""
        first = 0 if self._form == "shards" else len(self._places)
        # lines of a piece are counted from its first byte on, and its file may begin with a mark
        return first, self._line_ends if isinstance(piece, ListPiece) else 0

    def add(self, piece: Piece, seen: Seen) -> None:
        first = len(self._places)
        _, lines = self.behind(piece)
        self._pieces.append(piece)
        self._firsts.append(first)
        self._records += seen.records
        self._ids += seen.ids
        self._places.extend(seen.places)
        self._lines.extend(line + lines if line >= 0 else -1 for line in seen.lines)
        for name in seen.names:
            self._names += (name or "").encode("utf-8", "surrogatepass")
            self._ends.append(len(self._names))
        self._named += seen.named
        self._content += seen.content
        self._looks += seen.looks
        self._signatures += seen.signatures
        self._owners.extend(first + one for one in seen.owners)
        self._speakers.extend(first + one for one in seen.speakers)
        self._line_ends += seen.line_ends

    def repeats(self, near: bool) -> Iterable[Finding]:
        """Everything that comes twice, by kind and in the order of the samples."""
        records = np.frombuffer(self._records, np.uint64).reshape(-1, 2)
        twice = dict(repeats.repeated(records))
        for at, before in twice.items():
            yield self._finding("duplicate_record", at, f"it repeats {self._called(before)}")
        for at, before in repeats.repeated(np.frombuffer(self._ids, np.uint64).reshape(-1, 2)):
            if at not in twice:
                yield self._finding("id_twice", at, f"{self._called(before)} has it too")
        if near:
            yield from self._near(twice)

    def _near(self, twice: dict[int, int]) -> Iterable[Finding]:
        content = np.frombuffer(self._content, np.uint64).reshape(-1, 2)
        looks = np.frombuffer(self._looks, np.uint8).reshape(-1, 8)
        # a file that several records show is one
        again = {at for at, _ in repeats.repeated(np.frombuffer(self._named, np.uint64).reshape(-1, 2))}
        same = {}
        for at, before in repeats.repeated(content):
            same[at] = before
            if at not in again:
                yield self._finding("duplicate_picture", self._owners[at], f"that of {self._called(self._owners[before])}")
        # of each content one
        own = np.array([at for at in range(len(looks)) if at not in same], np.int64)
        for at, before, bits in repeats.near_looks(looks[own]):
            owner, other = self._owners[int(own[at])], self._owners[int(own[before])]
            yield self._finding("near_picture", owner, f"like that of {self._called(other)}, {bits} of 64 bits differ")
        signatures = np.frombuffer(self._signatures, np.uint32).reshape(-1, repeats.NUMBERS)
        for at, before, share in repeats.near_texts(signatures):
            if self._speakers[at] not in twice:
                told = f"about {share:.0%} of that of {self._called(self._speakers[before])}"
                yield self._finding("near_text", self._speakers[at], told)

    def _finding(self, kind: str, at: int, detail: str) -> Finding:
        piece, number = self._piece_of(at)
        name = self._name(at)
        place, line = self._places[at], self._lines[at]
        known = {"byte": None if place < 0 else place, "line": None if line < 0 else line, "id": name or None}
        return Finding(kind, detail, _file_of(piece), number, **known)  # type: ignore[arg-type]

    def _called(self, at: int) -> str:
        return replace(self._finding("duplicate_record", at, ""), byte=None).where()

    def _name(self, at: int) -> str:
        return bytes(self._names[self._ends[at] : self._ends[at + 1]]).decode("utf-8", "replace")

    def _piece_of(self, at: int) -> tuple[Piece, int]:
        index = bisect_right(self._firsts, at) - 1
        return self._pieces[index], at - self._firsts[index] if self._form == "shards" else at


def _file_of(piece: Piece) -> str:
    return "captions.json" if not hasattr(piece, "file") else piece.file.name
