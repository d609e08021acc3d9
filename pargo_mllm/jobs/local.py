"""Pieces of work in processes of this machine."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tqdm.auto import tqdm

from pargo_mllm.jobs.ledger import Ledger
from pargo_mllm.jobs.outcomes import Failed, Outcome, named, outcome_of
from pargo_mllm.jobs.workers import Worker

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class LocalEngine:
    """See :class:`pargo_mllm.jobs.engine.Engine`.

    Until the first worker is ready this process does pieces itself, so small work costs no process; so does one worker. After
    a piece has failed none is begun; those under way are let finish, and the first that failed, in their order, is told.
    """

    workers: int

    def map(self, work: Callable[[T], R], pieces: Sequence[T], title: str | None = None) -> Iterator[R]:
        """See :class:`pargo_mllm.jobs.engine.Engine`."""
        ledger = Ledger(len(pieces), min(self.workers, len(pieces)))
        if ledger.workers > 1:
            # small work is refused like large: what no other process could be told
            pickle.dumps(work)
        workers = [Worker(ledger, work, pieces) for _ in range(ledger.workers if ledger.workers > 1 else 0)]
        for worker in workers:
            worker.start()
        whole = False
        try:
            with tqdm(total=len(pieces), desc=title, disable=title is None, unit="piece", dynamic_ncols=True) as bar:
                for index, piece in enumerate(pieces):
                    outcome = _outcome(ledger, index, work, pieces, bar)
                    if isinstance(outcome, Failed):
                        ledger.drain()
                        whole = True
                        outcome.raise_for(named(index, len(pieces), piece))
                    yield outcome.result
            whole = True
        finally:
            ledger.stop()
            for worker in workers:
                worker.end(whole)


def _outcome(ledger: Ledger, index: int, work: Callable[[T], R], pieces: Sequence[T], bar: tqdm) -> Outcome:
    """Of the piece whose turn it is; this process does pieces itself as long as nobody else does."""
    while True:
        done = ledger.done
        bar.update(done - bar.n)
        outcome = ledger.get(index)
        if outcome is not None:
            return outcome
        mine = ledger.take_now()
        if mine is None:
            ledger.wait(done)
        else:
            ledger.put(mine, outcome_of(work, pieces[mine]))
