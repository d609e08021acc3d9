"""Boxes against the right ones, in a declared frame; and whether another frame would fit much better."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pargo_mllm.data.frames import FRAMES, Box, Size, convert, iou

#: a box is right from here on
RIGHT = 0.5
# another frame is said to fit much better where it makes so many more boxes right, as a share and as a number
_BETTER_SHARE, _BETTER_BOXES = 0.2, 3
# numbers may leave a frame by a little: models write 1.02 and 1010
_OUTSIDE = 1.1


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

    Where pictures' sizes are known, boxes are taken to be in each frame in turn. Where they are not, each box is stretched
    about the picture's corner to where it fits best, as a frame that counts in parts of the picture would be; as even wrong boxes fit
    somewhat better when stretched, what the next question's box gains by that is the measure.
    """
    known = [pair for pair in pairs if pair.size is not None]
    found: str | None
    if len(known) == len(pairs):
        shares = {name: _share(known, partial(overlap, frame=name)) for name in FRAMES}
        own = shares.pop(frame)
        found = max(shares, key=shares.__getitem__)
        by = shares[found] - own
    else:
        own = _share(pairs, partial(overlap, frame=frame))
        found, by = _stretched_frame(pairs, own, frame)
    if found is None or by < _BETTER_SHARE or by * len(pairs) < _BETTER_BOXES:
        return None
    warnings.warn(
        f"{100 * own:.1f} % of the boxes are right in the declared frame, {frame} ({FRAMES[frame]}), and "
        f"{100 * (own + by):.1f} % would be in the frame {found} ({FRAMES[found]}). If that is theirs, give --frame {found}"
        + ("." if len(known) == len(pairs) else ", with answers that know the pictures' sizes."),
        FrameWarning,
        stacklevel=2,
    )
    return found


def _share(pairs: Sequence[Pair], overlaps: Callable[[Pair], float]) -> float:
    return sum(overlaps(pair) >= RIGHT for pair in pairs) / len(pairs)


def _stretched_frame(pairs: Sequence[Pair], own: float, frame: str) -> tuple[str | None, float]:
    """The frame that boxes seem to be in, and by what share more of them would be right."""
    read = [pair for pair in pairs if pair.said is not None]
    largest = sorted(max(map(abs, pair.said)) for pair in read if pair.said is not None)
    if not read:
        return None, 0.0
    # nearly all of them: a few boxes are always far off
    reach = largest[int(0.95 * (len(largest) - 1))]
    found = "picture" if reach <= _OUTSIDE else "thousand" if reach <= 1000 * _OUTSIDE else None
    if found is None or found == frame:
        return None, 0.0
    stretched = _share(read, _stretched) * len(read) / len(pairs)
    others = [Pair(other.said, pair.right) for pair, other in zip(read, [*read[1:], *read[:1]], strict=True)]
    by_chance = _share(others, _stretched)
    gain = stretched - own
    return found, gain if stretched - by_chance >= _BETTER_SHARE else 0.0


def _stretched(pair: Pair) -> float:
    """The IoU where each direction is scaled so that the corners come nearest (least squares)."""
    if pair.said is None:
        return 0.0
    x1, y1, x2, y2 = pair.said

    def scale(first: float, second: float, to_first: float, to_second: float) -> float:
        square = first * first + second * second
        return (first * to_first + second * to_second) / square if square > 0 else 0.0

    width, height = scale(x1, x2, pair.right[0], pair.right[2]), scale(y1, y2, pair.right[1], pair.right[3])
    return iou((x1 * width, y1 * height, x2 * width, y2 * height), pair.right)
