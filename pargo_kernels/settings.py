"""Numbers as callers hand them over: counts of whatever integer type, scales of whatever real type."""

from __future__ import annotations

import numbers
import operator

import torch

MAX_COUNT = 2**63 - 1
MAX_SCALE = torch.finfo(torch.float32).max


def as_count(name: str, value) -> int:
    """``value`` as an int: any type with ``__index__`` (numpy's integers too) but bool and tensors; symbols stay symbols.

    Raises:
        TypeError: for what is no integer. A tensor would have to be read back from its device.
        ValueError: for integers past 64 bits.
    """
    if type(value) is not int:
        if isinstance(value, torch.SymInt):
            return value  # type: ignore[return-value]
        if isinstance(value, torch.Tensor):
            raise TypeError(f"{name} is a tensor; it must be an int: pass {name}.item(), which reads it back from its device.")
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name}={value!r} is a {type(value).__name__}; it must be an int.")
        try:
            value = operator.index(value)
        except TypeError:
            raise TypeError(f"{name}={value!r} is a {type(value).__name__}; it must be one int.") from None
    if abs(value) > MAX_COUNT:
        raise ValueError(f"{name} is an integer of {value.bit_length()} bits; it must fit 64: no tensor is that large.")
    return value


def as_scale(scale) -> float | None:
    """``scale`` as a float: any real number (numpy's too) but bool and tensors; None stays None.

    Zero, negative and subnormal numbers are numbers like others.

    Raises:
        ValueError: for what is no number, not finite, or past the range of float32.
    """
    if scale is None or isinstance(scale, torch.SymFloat):
        return scale  # type: ignore[return-value]
    if type(scale) is not float and (isinstance(scale, bool) or not isinstance(scale, numbers.Real)):
        shown = f"scale is a {type(scale).__name__}" if isinstance(scale, torch.Tensor) else f"scale={scale!r}"
        raise ValueError(f"{shown}; it must be a finite number, not a tensor; None means head_dim ** -0.5.")
    try:
        number = float(scale)
    except OverflowError:
        number = float("inf")
        scale = "a number past the range of float64"
    if not abs(number) <= MAX_SCALE:
        raise ValueError(
            f"scale={scale} must be a finite number, in float32 too: at most {MAX_SCALE:.3g}; None means head_dim ** -0.5."
        )
    return number
