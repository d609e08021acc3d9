"""What an engine is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from pargo_mllm.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


class JobError(UserError):
    """Work that could not be done: the message names the piece and what happened to it."""


class Engine(Protocol):
    """Does pieces of work."""

    @property
    def workers(self) -> int:
        """How many pieces it does at a time; what is limited over all of them (a rate) is divided by it."""

    def map(self, work: Callable[[T], R], pieces: Sequence[T], title: str | None = None) -> Iterator[R]:
        """What ``work`` gives for each piece, in their order; several are done at a time, a bar shows how many are.

        Args:
            work: a function of a module, or a ``functools.partial`` of one: other processes import it.
            pieces: small, picklable; the files that they name are seen by every worker.
            title: of the bar; none without one.

        Raises:
            UserError: that a piece raised.
            JobError: if a worker died.
        """


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
