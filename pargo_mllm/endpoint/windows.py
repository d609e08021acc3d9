"""Limits that hold in every window of time, wherever it begins."""

from __future__ import annotations

from collections import deque
from math import inf


class SlidingWindow:
    """At most ``limit`` of something in any ``seconds``, by the clock of whoever counts it at the other end.

    When the other end counts what is sent, nobody here knows: at some time between the sending and the answer. So an amount
    is held from its beginning to its end and for ``seconds`` behind it. Times are seconds of one clock that does not go back.

    Args:
        limit: above 0.
        seconds: how long a window is.
    """

    def __init__(self, limit: float, seconds: float = 60.0):
        self.limit, self.seconds = limit, seconds
        self._begun: dict[int, float] = {}
        # (when it ended, amount), in the order of their ends
        self._ended: deque[tuple[float, float]] = deque()
        self._held, self._number = 0.0, 0

    def wait(self, amount: float, now: float) -> float:
        """Seconds until so much may begin, 0 for now; infinite as long as that depends on what has not ended."""
        while self._ended and self._ended[0][0] + self.seconds <= now:
            self._held -= self._ended.popleft()[1]
        if not self._begun and not self._ended:
            # without the rounding of what was added and taken away
            self._held = 0.0
        beyond = self._held + amount - self.limit
        if beyond <= 0:
            return 0.0
        for end, ended in self._ended:
            beyond -= ended
            if beyond <= 0:
                return end + self.seconds - now
        return inf

    def begin(self, amount: float) -> int:
        """So much begins, whether it may or not. Returns what :meth:`end` takes."""
        self._number += 1
        self._begun[self._number] = amount
        self._held += amount
        return self._number

    def end(self, number: int, amount: float, now: float) -> None:
        """It has ended, and was ``amount``."""
        self._held += amount - self._begun.pop(number)
        self._ended.append((now, amount))

    def recall(self, amount: float, ended: float) -> None:
        """What ended before this window was made; called before anything else, in the order of the ends."""
        self._held += amount
        self._ended.append((ended, amount))
