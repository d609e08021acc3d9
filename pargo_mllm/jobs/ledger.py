"""Which pieces may be begun and what became of the others: between the threads that give pieces out and the one that waits."""

from __future__ import annotations

import threading

from pargo_mllm.jobs.outcomes import Failed, Outcome

# pieces for each worker that may be done before the one whose turn it is: a slow one holds up nobody for long, and what waits
# for its turn takes little room
AHEAD = 4


class Ledger:
    """Safe in threads.

    Args:
        pieces: how many there are; they are begun in their order.
        workers: how many may be under way at a time.
    """

    def __init__(self, pieces: int, workers: int):
        self.pieces, self.workers = pieces, workers
        self.done = 0
        self._begun = self._given = self._running = self._ready = 0
        self._stopped = False
        self._refused: Exception | None = None
        self._outcomes: dict[int, Outcome] = {}
        self._changed = threading.Condition()

    @property
    def over(self) -> bool:
        """Whether no piece will be begun any more."""
        return self._stopped or self._begun == self.pieces

    def stop(self) -> None:
        """No piece is begun any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def wait_until_over(self, seconds: float) -> bool:
        """Wait; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self.over, seconds)

    def join(self) -> None:
        """A worker is ready: from now on the thread that waits leaves all pieces to workers."""
        with self._changed:
            self._ready += 1

    def take(self) -> int | None:
        """The next piece for a worker, as soon as one may be begun; None when none will be."""
        with self._changed:
            self._changed.wait_for(lambda: self.over or self._may_begin)
            return None if self.over else self._begin()

    def take_now(self) -> int | None:
        """The next piece for the thread that waits, where there is no worker yet."""
        with self._changed:
            return self._begin() if not self.over and not self._ready and self._may_begin else None

    def put(self, index: int, outcome: Outcome) -> None:
        """What became of a piece that was taken. After a failure none is begun any more."""
        with self._changed:
            self._outcomes[index] = outcome
            self._running -= 1
            self.done += 1
            self._stopped |= isinstance(outcome, Failed)
            self._changed.notify_all()

    def get(self, index: int) -> Outcome | None:
        """What became of the piece whose turn it is, if it is done."""
        with self._changed:
            if index not in self._outcomes:
                return None
            self._given = index + 1
            self._changed.notify_all()
            return self._outcomes.pop(index)

    def wait(self, done: int) -> None:
        """Wait until more than ``done`` pieces are.

        Raises:
            Exception: the one that :meth:`refuse` was given.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.done > done or self._refused)
            if self._refused:
                raise self._refused

    def refuse(self, error: Exception) -> None:
        """There is no worker, and why."""
        with self._changed:
            self._refused = error
            self._stopped = True
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until nothing is under way any more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running)

    @property
    def _may_begin(self) -> bool:
        return self._running < self.workers and self._begun < self._given + AHEAD * self.workers

    def _begin(self) -> int:
        self._begun += 1
        self._running += 1
        return self._begun - 1
