"""Pieces of work in processes of this machine."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeVar

from tqdm.auto import tqdm

from pargo_mllm.jobs.engine import JobError

T = TypeVar("T")
R = TypeVar("R")

# pieces that wait for a worker, for each of them: results are given in order, and one slow piece holds up nobody for long
AHEAD = 4


@dataclass(frozen=True)
class LocalEngine:
    """See :class:`pargo_mllm.jobs.engine.Engine`; one worker, or one piece, is done in this process itself."""

    workers: int

    def map(self, work: Callable[[T], R], pieces: Sequence[T], title: str | None = None) -> Iterator[R]:
        """See :class:`pargo_mllm.jobs.engine.Engine`."""
        with tqdm(total=len(pieces), desc=title, disable=title is None, unit="piece", dynamic_ncols=True) as bar:
            for result in self._results(work, pieces):
                bar.update()
                yield result

    def _results(self, work: Callable[[T], R], pieces: Sequence[T]) -> Iterator[R]:
        workers = min(self.workers, len(pieces))
        if workers <= 1:
            yield from map(work, pieces)
            return
        # a fork of a process that has threads may wait for ever
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin)
        waiting: deque[Future[R]] = deque()
        try:
            for piece in pieces:
                waiting.append(pool.submit(work, piece))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise JobError(
                "a worker process died, perhaps for want of memory. What was done is kept: run the same command again, with "
                "fewer --processes."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    # Ctrl-C is for the process that gives out the work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
