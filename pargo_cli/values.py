"""Types of options that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path


def path(text: str) -> Path:
    """A file or a folder. An empty text, which a variable of the shell that is not set leaves, is not the folder one is in.

    Raises:
        argparse.ArgumentTypeError: for an empty text.
    """
    return Path(no_empty(text))


def no_empty(text: str) -> str:
    """A text of some characters.

    Raises:
        argparse.ArgumentTypeError: for an empty one.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; give a name (is a variable of the shell not set?)")
    return text


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
    value = _number(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} must be a number above 0")
    return value


def share(text: str) -> float:
    """A number from 0 to below 1.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a share from 0 to less than 1")
    return value


def up_to_one(text: str) -> float:
    """A number from 0 to 1.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be a number from 0 to 1")
    return value


def _number(text: str) -> float:
    """NaN, which lies in no range, for what is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or not least <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from {least} to {2**31 - 1}")
    return int(text)
