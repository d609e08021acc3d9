"""What was sent, on the disk before it is sent: a process that goes on for a killed one counts what that one used."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pargo_mllm.endpoint.usage import Usage
from pargo_mllm.errors import UserError

# of a request: under way, or its process was killed; paid for; nothing to pay; perhaps paid for; answered, and nothing said of
# its tokens that can be used; paid for in a batch
OPEN, PAID, FREE, PERHAPS, UNTOLD, BATCH = "open", "paid", "free", "perhaps", "untold", "batch"


class Ledger:
    """Requests with their tokens. One process at a time writes it.

    A kill loses nothing of it. A machine that loses its power may: then a limit can be exceeded once, and no answer is lost.

    Args:
        file: an SQLite file; None for one in memory.
        now: seconds since 1970: when what a killed process left open is taken to have ended.
    """

    def __init__(self, file: Path | None, now: float):
        self.file = file
        with self._told():
            self._database = sqlite3.connect(":memory:" if file is None else file, timeout=60, isolation_level=None)
            self._database.execute("PRAGMA synchronous = OFF")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS sent (number INTEGER PRIMARY KEY, ended REAL, input INTEGER NOT NULL, "
                "output INTEGER NOT NULL, cached INTEGER NOT NULL, state TEXT NOT NULL, fault TEXT NOT NULL)"
            )
            self._database.execute("UPDATE sent SET ended = ?, state = ? WHERE state = ?", (now, PERHAPS, OPEN))

    def begin(self, most: Usage) -> int:
        """A request is about to be sent, and takes at most so much. Returns its number."""
        row = (most.input, most.output, most.cached, OPEN, "")
        with self._told():
            done = self._database.execute("INSERT INTO sent VALUES (NULL, NULL, ?, ?, ?, ?, ?)", row)
        return int(done.lastrowid or 0)

    def end(self, number: int, usage: Usage, state: str, fault: str, now: float) -> None:
        """It is over.

        Args:
            usage: what it took, or may have taken.
            state: :data:`PAID`, :data:`FREE`, :data:`PERHAPS` or :data:`UNTOLD`.
            fault: why it is to be asked again; empty where it is not.
        """
        row = (now, usage.input, usage.output, usage.cached, state, fault, number)
        with self._told():
            self._database.execute(
                "UPDATE sent SET ended = ?, input = ?, output = ?, cached = ?, state = ?, fault = ? WHERE number = ?", row
            )

    def recent(self, since: float) -> Iterator[tuple[float, Usage]]:
        """(when it ended, what it took) of what ended later, in order."""
        with self._told():
            rows = self._database.execute(
                "SELECT ended, input, output, cached FROM sent WHERE ended > ? ORDER BY ended", (since,)
            ).fetchall()
        for ended, *tokens in rows:
            yield ended, Usage(*tokens)

    def sums(self) -> dict[str, Usage]:
        """Tokens by state, of all runs."""
        with self._told():
            rows = self._database.execute(
                "SELECT state, SUM(input), SUM(output), SUM(cached) FROM sent GROUP BY state"
            ).fetchall()
        return {state: Usage(*map(int, tokens)) for state, *tokens in rows}

    def faults(self) -> Counter[str]:
        """How many requests of all runs were to be asked again, by their fault, and all of them as ``requests``."""
        with self._told():
            rows = self._database.execute("SELECT fault, COUNT(*) FROM sent GROUP BY fault").fetchall()
        counted = Counter({fault: int(count) for fault, count in rows if fault})
        counted["requests"] = sum(int(count) for _, count in rows)
        return counted

    def untold(self) -> int:
        """How many answers of all runs said nothing of their tokens that can be used."""
        with self._told():
            (count,) = self._database.execute("SELECT COUNT(*) FROM sent WHERE state = ?", (UNTOLD,)).fetchone()
        return int(count)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{self.file}: what is sent cannot be noted here ({error}).") from error
