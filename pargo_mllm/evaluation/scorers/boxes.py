"""Boxes against the right ones, in a declared frame; and whether another frame would fit much better."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from pargo_mllm.data.frames import FRAMES, Box, Size, convert, iou

#: a box is right from here on
RIGHT = 0.5
# another frame is said to fit much better where it makes so many more boxes right, as a share and as a number
_BETTER_SHARE, _BETTER_BOXES = 0.2, 3
# numbers may leave a frame by a little: models write 1.02 and 1010
_OUTSIDE = 1.1
# what boxes of the declared frame are off by, most of them and the same way, is less
_STRETCHED = 1.15


class FrameWarning(UserWarning):
    """Boxes fit the right ones much better in another frame than in the declared one."""


@dataclass(frozen=True)
class Pair:
    """A box that a model wrote, in the frame that is to be found out, and the right one in pixels.

    Args:
        said: None where none could be read.
        size: the picture's, in pixels; None where nobody knows it.
    """

    said: Box | None
    right: Box
    size: Size | None = None


def overlap(pair: Pair, frame: str) -> float:
    """The IoU of the two boxes, 0...1; a box that could not be read is all zeros and overlaps nothing.

    Raises:
        ValueError: if the picture's size is needed and unknown.
    """
    if pair.said is None:
        return 0.0
    if frame == "pixels":
        return iou(pair.said, pair.right)
    if pair.size is None:
        raise ValueError(f"boxes in the frame {frame} need the picture's size")
    return iou(convert(pair.said, frame, "pixels", pair.size), pair.right)


def better_frame(pairs: Sequence[Pair], frame: str) -> str | None:
    """The frame that fits much better than the declared one, with a :class:`FrameWarning`; None where none does.

    Where pictures' sizes are known, boxes are taken to be in each frame in turn. Where one is not, each box is stretched about
    the picture's corner to where it fits best, as boxes that count in parts of the picture would be. Even wrong boxes fit
    somewhat better then: what counts is how much better than the next question's box, and that most are stretched alike.
    """
    own = _share(pairs, frame)
    if all(pair.size is not None for pair in pairs):
        shares = {name: _share(pairs, name) for name in FRAMES if name != frame}
        found = max(shares, key=shares.__getitem__)
        share, told = shares[found], ""
    else:
        found, share, told = _stretched(pairs)
    if share - own < _BETTER_SHARE or (share - own) * len(pairs) < _BETTER_BOXES:
        return None
    warnings.warn(
        f"{100 * own:.1f} % of the boxes are right in the declared frame, {frame} ({FRAMES[frame]}), and {100 * share:.1f} % "
        f"would be in the frame {found} ({FRAMES[found]}){told}. If that is theirs, give --frame {found}.",
        FrameWarning,
        stacklevel=2,
    )
    return found


def _share(pairs: Sequence[Pair], frame: str) -> float:
    """Of right boxes."""
    return sum(overlap(pair, frame) >= RIGHT for pair in pairs) / len(pairs)


def _stretched(pairs: Sequence[Pair]) -> tuple[str, float, str]:
    """The frame that boxes without sizes seem to be in, the share of them that would be right, and of what pictures; a share
    of 0 where they are in none."""
    read = [(pair.said, pair.right) for pair in pairs if pair.said is not None]
    reach = sorted(max(map(abs, said)) for said, _ in read)
    # nearly all of them: a few boxes are always far off
    within = reach[int(0.95 * (len(reach) - 1))] if reach else math.inf
    found, unit = ("picture", 1) if within <= _OUTSIDE else ("thousand", 1000)
    if within > _OUTSIDE * unit:
        return found, 0.0, ""
    scales = [(_scale(said[::2], right[::2]), _scale(said[1::2], right[1::2])) for said, right in read]
    width, height = median(x for x, _ in scales), median(y for _, y in scales)
    others = [(said, right) for (said, _), (_, right) in zip([*read[1:], *read[:1]], read, strict=True)]
    share, by_chance = (sum(_best(*both) >= RIGHT for both in given) / len(pairs) for given in (read, others))
    if share - by_chance < _BETTER_SHARE or (_near_one(width) and _near_one(height)):
        return found, 0.0, ""
    return found, share, f" of pictures with about {unit * width:.0f} x {unit * height:.0f} pixels"


def _near_one(scale: float) -> bool:
    return 1 / _STRETCHED < scale < _STRETCHED


def _best(said: Sequence[float], right: Sequence[float]) -> float:
    """The IoU where each direction is stretched so that the corners come nearest."""
    width, height = _scale(said[::2], right[::2]), _scale(said[1::2], right[1::2])
    return iou([said[0] * width, said[1] * height, said[2] * width, said[3] * height], right)


def _scale(said: Sequence[float], right: Sequence[float]) -> float:
    """What brings two numbers nearest to two others (least squares); 0 where nothing does."""
    square = sum(one * one for one in said)
    scale = sum(one * other for one, other in zip(said, right, strict=True)) / square if square > 0 else 0.0
    return scale if math.isfinite(scale) else 0.0
