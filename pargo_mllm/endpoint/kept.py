"""Answers that were paid for, and failures that were, each kept once in an SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pargo_mllm.endpoint import claims
from pargo_mllm.endpoint.usage import Usage
from pargo_mllm.errors import UserError


@dataclass(frozen=True)
class Answer:
    """What an endpoint said.

    Args:
        model: what it calls the model that answered.
        usage: tokens that it took; None where it did not say.
    """

    text: str
    model: str
    usage: Usage | None = None


@dataclass(frozen=True)
class Failure:
    """A question that has no answer, and why.

    Args:
        by_model: whether the model itself gave none: it refused, or what it said is empty or cut off. Asked otherwise it may.
        kind: the same for all of its kind: "length", "content_filter", "refusal", "empty", "damaged"; of what the endpoint did
            not take "not taken", and of what was asked too often in vain "given up".
        usage: tokens that it took; None where nobody said.
    """

    reason: str
    by_model: bool = False
    kind: str = "given up"
    usage: Usage | None = None


class KeptAnswers:
    """Answers by a digest of what was asked.

    Several processes may use one file: a writer waits for another one, and of two answers to the same question the first is
    kept and both are given it. An answer is on the disk before :meth:`keep` returns. ``claims`` says who asks what.
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
            # a table of its own for what a file of an earlier version lacks: both versions read both files
            for table in (
                "answers (asked TEXT PRIMARY KEY, text TEXT NOT NULL, model TEXT NOT NULL)",
                "failures (asked TEXT PRIMARY KEY, kind TEXT NOT NULL, reason TEXT NOT NULL)",
                "usage (asked TEXT PRIMARY KEY, input INTEGER NOT NULL, output INTEGER NOT NULL, cached INTEGER NOT NULL)",
                claims.TABLE,
            ):
                self._database.execute(f"CREATE TABLE IF NOT EXISTS {table}")
        self.claims = claims.Claims(self._database, self._at_once)

    def get(self, asked: str) -> Answer | None:
        """The answer that is kept, or None."""
        row = self._row("SELECT text, model FROM answers WHERE asked = ?", asked)
        return Answer(row[0], row[1], self._usage(asked)) if row else None

    def keep(self, asked: str, answer: Answer) -> Answer:
        """Keep an answer. Returns the one that is kept: another process may have been first."""
        with self._at_once():
            done = self._database.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (asked, answer.text, answer.model))
            if done.rowcount:
                self._database.execute("DELETE FROM failures WHERE asked = ?", (asked,))
                self._keep_usage(asked, answer.usage)
            self.claims.forget(asked)
        return self.get(asked) or answer

    def failure(self, asked: str) -> Failure | None:
        """The failure that is kept, or None."""
        row = self._row("SELECT reason, kind FROM failures WHERE asked = ?", asked)
        return Failure(row[0], by_model=True, kind=row[1], usage=self._usage(asked)) if row else None

    def keep_failure(self, asked: str, failure: Failure) -> None:
        """Keep that a model gave no answer, unless there is one."""
        with self._at_once():
            if self._row("SELECT 1 FROM answers WHERE asked = ?", asked) is None:
                row = (asked, failure.kind, failure.reason)
                self._database.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?)", row)
                self._keep_usage(asked, failure.usage)
            self.claims.forget(asked)

    def keep_failures(self, failures: Iterable[tuple[str, Failure]]) -> None:
        """Keep many at once, or none of them; without what they took."""
        with self._at_once():
            rows = ((key, failure.kind, failure.reason) for key, failure in failures)
            self._database.executemany("INSERT OR REPLACE INTO failures VALUES (?, ?, ?)", rows)

    def forget_failure(self, asked: str) -> None:
        """Keep a failure no longer."""
        with self._told():
            self._database.execute("DELETE FROM failures WHERE asked = ?", (asked,))

    def forget_failures(self, kind: str) -> int:
        """Keep no failure of a kind any longer. Returns how many there were."""
        with self._told():
            return self._database.execute("DELETE FROM failures WHERE kind = ?", (kind,)).rowcount

    def has_failure_of(self, reason: str) -> bool:
        """Whether one is kept with this reason."""
        return self._row("SELECT 1 FROM failures WHERE reason = ? LIMIT 1", reason) is not None

    def _row(self, query: str, asked: str) -> tuple | None:
        with self._told():
            return self._database.execute(query, (asked,)).fetchone()

    def _usage(self, asked: str) -> Usage | None:
        row = self._row("SELECT input, output, cached FROM usage WHERE asked = ?", asked)
        return Usage(*row) if row else None

    def _keep_usage(self, asked: str, usage: Usage | None) -> None:
        self._database.execute("DELETE FROM usage WHERE asked = ?", (asked,))
        if usage is not None:
            row = (asked, usage.input, usage.output, usage.cached)
            self._database.execute("INSERT INTO usage VALUES (?, ?, ?, ?)", row)

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        """All statements of the block, or none; they are on the disk when it ends."""
        with self._told():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

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
