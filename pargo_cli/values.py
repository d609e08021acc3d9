"""Types of options that several commands have."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """A whole number from 1.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    return _whole(text, 1)


def at_least_zero(text: str) -> int:
    """A whole number from 0.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    return _whole(text, 0)


def above_zero(text: str) -> float:
    """A number above 0.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} must be a number above 0")
    return value


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or not least <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from {least} to {2**31 - 1}")
    return int(text)
