"""Who asks what just now, in the file of kept answers: of several processes one asks a question, and the others wait for it."""

from __future__ import annotations

import os
import secrets
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

TABLE = (
    "claims (asked TEXT PRIMARY KEY, owner TEXT NOT NULL, machine TEXT NOT NULL, process INTEGER NOT NULL, until REAL NOT NULL)"
)
# seconds that a claim holds unless it is renewed
LEASE = 30.0


class Claims:
    """The claims of whoever opened a file. One lapses when it is not renewed, and at once where its process is gone.

    Args:
        at_once: makes a block one transaction.
    """

    def __init__(self, database: sqlite3.Connection, at_once: Callable[[], AbstractContextManager[None]]):
        self._database, self._at_once = database, at_once
        self._owner, self._machine = secrets.token_hex(8), socket.gethostname()
        self._mine: set[str] = set()

    def take(self, asked: str) -> bool:
        """Whether a question is for the caller to ask, from now on."""
        with self._at_once():
            row = self._database.execute("SELECT machine, process, until FROM claims WHERE asked = ?", (asked,)).fetchone()
            if row is not None and self._holds(*row):
                return False
            claim = (asked, self._owner, self._machine, os.getpid(), time.time() + LEASE)
            self._database.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)", claim)
        self._mine.add(asked)
        return True

    def renew(self) -> None:
        """All that is held is held on."""
        if self._mine:
            with self._at_once():
                until = time.time() + LEASE
                self._database.execute("UPDATE claims SET until = ? WHERE owner = ?", (until, self._owner))

    def release(self, asked: str) -> None:
        """A question is asked no longer."""
        if asked in self._mine:
            with self._at_once():
                self.forget(asked)

    def forget(self, asked: str) -> None:
        """The same inside a transaction of the caller's, which keeps what was said."""
        self._database.execute("DELETE FROM claims WHERE asked = ? AND owner = ?", (asked, self._owner))
        self._mine.discard(asked)

    def _holds(self, machine: str, process: int, until: float) -> bool:
        return until > time.time() and (machine != self._machine or _lives(process))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
