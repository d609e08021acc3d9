"""Answers that were paid for, each kept once in an SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pargo_mllm.errors import UserError


@dataclass(frozen=True)
class Answer:
    """What an endpoint said.

    Args:
        model: what it calls the model that answered.
    """

    text: str
    model: str


class KeptAnswers:
    """Answers by a digest of what was asked.

    Several processes may use one file: a writer waits for another one, and of two answers to the same question the first is
    kept and both are given it. An answer is on the disk before :meth:`keep` returns.
    """

    def __init__(self, file: Path):
        """Open the file, or make it.

        Raises:
            UserError: for a file that cannot be used.
        """
        self.file = file
        with self._told():
            file.parent.mkdir(parents=True, exist_ok=True)
            # every statement is a transaction of its own
            self._database = sqlite3.connect(file, timeout=60, isolation_level=None)
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS answers (asked TEXT PRIMARY KEY, text TEXT NOT NULL, model TEXT NOT NULL)"
            )

    def get(self, asked: str) -> Answer | None:
        """The answer that is kept, or None."""
        with self._told():
            row = self._database.execute("SELECT text, model FROM answers WHERE asked = ?", (asked,)).fetchone()
        return Answer(*row) if row else None

    def keep(self, asked: str, answer: Answer) -> Answer:
        """Keep an answer. Returns the one that is kept: another process may have been first."""
        with self._told():
            self._database.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (asked, answer.text, answer.model))
        return self.get(asked) or answer

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            message = f"{self.file}: answers cannot be kept here ({error}). Give another file, or move this one away."
            raise UserError(message) from error
