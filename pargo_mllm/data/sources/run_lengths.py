"""COCO's masks: how its file says the runs of pixels, as a list or as a text, and how they are written."""

from __future__ import annotations

from typing import Any

import numpy as np

# pixels of a mask
MAX_MASK = 2**24
# runs of one; of characters there may be seven times as many
_MAX_RUNS = 2**20
_FIRST, _BITS, _MORE, _SIGN = 48, 5, 32, 16
# characters of a number: more bits than any mask has pixels
_MAX_CHARACTERS = 7


class MaskError(ValueError):
    """Runs that are none of a mask of that size."""


def read_counts(told: Any, size: tuple[int, int]) -> np.ndarray:
    """The runs of a mask, int64 ``[n]``; they sum to its pixels.

    A text has a number in every few characters, each of them five bits (the character's code less 48), the lowest first, 32
    added where another one follows; the last one's bit of 16 says that it is negative. From the fourth number on each is the
    difference to the one two places before.

    Args:
        told: a list of whole numbers, or the text.
        size: ``(height, width)``.

    Raises:
        MaskError: for anything else.
    """
    pixels = size[0] * size[1]
    if not (min(size) > 0 and pixels <= MAX_MASK):
        raise MaskError(f"a mask has 1 to {MAX_MASK:,} pixels, not {size[0]} x {size[1]}")
    counts = _of_text(told) if isinstance(told, str) else _of_list(told)
    if (counts < 0).any() or (counts > pixels).any() or int(counts.sum()) != pixels:
        raise MaskError(f"the runs do not sum to {size[0]} x {size[1]} pixels")
    return counts


def write_counts(counts: np.ndarray) -> str:
    """The runs as COCO's text."""
    steps = counts.astype(np.int64)
    steps[3:] -= counts[1:-2]
    text = []
    for step in steps.tolist():
        while True:
            bits, step = step & 31, step >> _BITS
            ends = step == (-1 if bits & _SIGN else 0)
            text.append(chr(_FIRST + (bits if ends else bits | _MORE)))
            if ends:
                break
    return "".join(text)


def counts_of(pixels: np.ndarray) -> np.ndarray:
    """The runs of a mask: int64 ``[n]`` from bool ``[H, W]``."""
    flat = np.concatenate([[False], pixels.T.ravel()])
    places = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], places, [pixels.size]])).astype(np.int64)


def _of_list(told: Any) -> np.ndarray:
    if not isinstance(told, list) or len(told) > _MAX_RUNS:
        raise MaskError(f"runs are a list of at most {_MAX_RUNS:,} numbers, or a text")
    if not all(type(count) is int and 0 <= count <= MAX_MASK for count in told):
        raise MaskError("a run is no whole number of pixels")
    return np.array(told, dtype=np.int64)


def _of_text(told: str) -> np.ndarray:
    if not told.isascii() or len(told) > _MAX_CHARACTERS * _MAX_RUNS:
        raise MaskError("the runs are no text that COCO writes")
    bits = np.frombuffer(told.encode(), dtype=np.uint8).astype(np.int64) - _FIRST
    last = np.flatnonzero(bits & _MORE == 0)
    first = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    lengths = last - first + 1
    if not len(bits) or bits.min() < 0 or bits.max() > 63 or not len(last) or last[-1] != len(bits) - 1:
        raise MaskError("the runs are no text that COCO writes")
    if lengths.max() > _MAX_CHARACTERS or len(lengths) > _MAX_RUNS:
        raise MaskError("the runs are no text that COCO writes")
    place = np.arange(len(bits)) - np.repeat(first, lengths)
    counts = np.add.reduceat((bits & 31) << (_BITS * place), first)
    counts -= ((bits[last] & _SIGN) > 0) * (np.int64(1) << (_BITS * lengths))
    # from the fourth on, what each adds to the one two places before
    counts[1::2] = counts[1::2].cumsum()
    counts[2::2] = counts[2::2].cumsum()
    return counts
