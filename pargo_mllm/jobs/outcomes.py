"""What became of a piece, in a form that another process can send: the result, or the error as it was."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, NoReturn, TypeVar

import torch

from pargo_mllm.errors import UserError
from pargo_mllm.jobs.engine import JobError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Done:
    """What the work gave."""

    result: Any


@dataclass(frozen=True)
class Failed:
    """An error, where it was raised or in another process.

    Args:
        error: as it was raised.
        where: its traceback in another process, where that tells anything.
    """

    error: Exception
    where: str = ""

    def raise_for(self, piece: str) -> NoReturn:
        """Raise it.

        Raises:
            JobError: naming the piece, for what the machine refused: memory, room on the disk, a file.
            Exception: the error itself, anything else.
        """
        if isinstance(self.error, MemoryError):
            raise JobError(f"{piece} needs more memory than there is; give fewer --processes.") from self.error
        if isinstance(self.error, OSError) and not isinstance(self.error, UserError):
            raise JobError(f"{piece} could not be done: {self.error}. What was done is kept.") from self.error
        if self.where:
            raise self.error from _Elsewhere(self.where)
        raise self.error


Outcome = Done | Failed


class _Elsewhere(Exception):
    """The traceback of another process."""

    def __str__(self) -> str:
        return f"in another process:\n{self.args[0]}"


def outcome_of(work: Callable[[T], R], piece: T) -> Outcome:
    """Do a piece, in this process."""
    try:
        with _one_thread():
            return Done(work(piece))
    except Exception as error:
        return Failed(error)


def answered(call: bytes) -> bytes:
    """Do a piece that another process sent, ``pickle.dumps((work, piece))``; :func:`outcome_in` reads what it gives."""
    try:
        work, piece = pickle.loads(call)
        with _one_thread():
            return pickle.dumps(("done", work(piece)))
    except Exception as error:
        where = "" if isinstance(error, UserError) else traceback.format_exc()
        return pickle.dumps(("failed", _packed(error), where))


def outcome_in(answer: bytes) -> Outcome:
    """What :func:`answered` gave."""
    kind, told, *where = pickle.loads(answer)
    return Done(told) if kind == "done" else Failed(_unpacked(told), *where)


def named(index: int, pieces: int, piece: object) -> str:
    """A piece, in an error."""
    return f"piece {index + 1} of {pieces} ({shorten(repr(piece), 160, placeholder=' …')})"


def _packed(error: Exception) -> bytes:
    """Pickle calls an error's constructor with the message alone, whatever it takes: where that fails it is made without."""
    ways: tuple[object, ...] = (error, (type(error), error.args, error.__dict__), (type(error), (str(error),), {}))
    for way in ways:
        try:
            packed = pickle.dumps(way)
            again = _unpacked(packed)
            if type(again) is type(error) and str(again) == str(error):
                return packed
        except Exception:
            continue
    kind = UserError if isinstance(error, UserError) else JobError
    return pickle.dumps(kind(str(error) if kind is UserError else f"{type(error).__name__}: {error}"))


def _unpacked(packed: bytes) -> Exception:
    told = pickle.loads(packed)
    if isinstance(told, Exception):
        return told
    kind, arguments, attributes = told
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    error.__dict__.update(attributes)
    return error


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for torch: pieces are what runs side by side, and sums have the same order in every process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
