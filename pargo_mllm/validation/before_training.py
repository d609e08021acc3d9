"""What training will skip for its pictures, found before it begins: from their heads, in minutes where decoding takes hours."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pargo_mllm.data.frames import FRAMES
from pargo_mllm.errors import UserError
from pargo_mllm.files import whole_file
from pargo_mllm.jobs import engine_of
from pargo_mllm.validation.box_checks import declared_frames
from pargo_mllm.validation.division import DividedSet, part_of
from pargo_mllm.validation.findings import KINDS
from pargo_mllm.validation.pieces import ListPiece, ShardPiece
from pargo_mllm.validation.run import frames_told, validate
from pargo_mllm.validation.settings import Settings

# another number for other rules
_RULES = 2
# what is small is looked at anew each time, at once and in this process: pieces, and bytes of a shard
_FEW, _SMALL = 2, 2**26


@dataclass(frozen=True)
class Unreadable:
    """Usable samples whose pictures cannot be read, by kind of finding, and records by the frame of their boxes; ``kept`` where
    an earlier look says so.
    """

    samples: int
    skipped: Mapping[str, int]
    kept: bool = False
    frames: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        looked = f"the pictures of {self.samples:,} samples were looked at{' before' if self.kept else ''}"
        if not self.skipped:
            return f"{looked}, and all are there"
        reasons = "; ".join(f"{count:,} for {KINDS[kind].what}" for kind, count in self.skipped.items())
        return f"{looked}; {sum(self.skipped.values()):,} will be skipped: {reasons}"


class Told(NamedTuple):
    """A line about a set, and its records by the frame of their boxes."""

    line: str
    frames: Mapping[str, int] = MappingProxyType({})


def unreadable_pictures(
    source: str | os.PathLike, image_root: Path | None, content: Mapping[str, Any], cache: Path
) -> Unreadable:
    """Look at the heads of a set's pictures.

    A large set is looked at by processes, with a bar, and what they saw is kept: a restart does not wait again.

    Args:
        content: what the set's content depends on (:meth:`pargo_mllm.data.corpus.Corpus.settings`).
        cache: where it is kept.

    Raises:
        UserError: if it cannot be looked at.
    """
    part = part_of(source, image_root)
    if _is_small(part):
        return _looked(part, 1, None)
    file = cache / "looked" / f"{_key(part, content)}.json"
    try:
        told = json.loads(file.read_text())
        skipped = {kind: int(count) for kind, count in told["skipped"].items() if kind in KINDS}
        frames = {frame: int(count) for frame, count in told["frames"].items() if frame in FRAMES}
        return Unreadable(int(told["samples"]), skipped, True, frames)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    seen = _looked(part, None, f"looking at pictures of {part.path.name}")
    # what is wrong may be mended, in any folder below, without a trace at the top
    if seen.skipped:
        return seen
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file, shared=True, durable=False) as aside:
            aside.write_text(json.dumps({"samples": seen.samples, "skipped": seen.skipped, "frames": seen.frames}))
    except OSError:
        # looked at again the next time
        pass
    return seen


def _looked(part: DividedSet, processes: int | None, title: str | None) -> Unreadable:
    report = validate(part, Settings(), engine_of("local", processes), title=title)
    return Unreadable(report.usable, dict(Counter(report.unreadable)), False, declared_frames(report.boxes))


def _is_small(part: DividedSet) -> bool:
    sizes = [os.path.getsize(piece.file) for piece in part.pieces if isinstance(piece, ShardPiece)]
    return len(part.pieces) <= _FEW and sum(sizes) <= _SMALL


def _key(part: DividedSet, content: Mapping[str, Any]) -> str:
    images = {str(piece.images) for piece in part.pieces if isinstance(piece, ListPiece)} or {str(part.path / "images")}
    # a picture that is laid into the folder is looked for again
    changed = sorted((os.path.abspath(one), os.stat(one).st_mtime_ns) for one in images if os.path.isdir(one))
    told = json.dumps([_RULES, str(part.path.resolve()), changed, dict(content)], sort_keys=True)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def told_of(source: str | os.PathLike, image_root: Path | None, content: Mapping[str, Any], cache: Path) -> Told:
    """:func:`unreadable_pictures` in a line, whatever becomes of it: training goes on all the same."""
    try:
        seen = unreadable_pictures(source, image_root, content, cache)
    except (UserError, OSError) as error:
        return Told(f"pictures were not looked at: {error}")
    return Told(str(seen), seen.frames)


def mixed_frames(frames: Iterable[Mapping[str, int]]) -> str | None:
    """A warning where the boxes of a mixture's parts are declared to be in several frames."""
    counted: Counter[str] = sum((Counter(one) for one in frames), Counter())
    if len(counted) < 2:
        return None
    counted = Counter({frame: counted[frame] for frame in FRAMES if counted[frame]})
    return f"boxes of several frames are trained on, and their numbers are read as they are: {frames_told(counted)} (records)"
