"""Answers on disk as soon as they are given: a run that is killed goes on where it was.

Every process appends lines to a file of its own in the run's folder, written through to the disk batch by batch, and reads
those of all at its start. The last line of a process that was killed may be torn; that question is asked again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import EvaluationError

_FILES = "answers-*.jsonl"


def key_of(asked: Mapping[str, Any]) -> str:
    """What an answer is kept under: a digest of all that it depends on."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


class Journal:
    """What was answered, by key.

    Args:
        folder: of the run.
        rank: of this process, whose own file is written to.

    Raises:
        EvaluationError: if another run is at work in the folder.
    """

    def __init__(self, folder: Path, rank: int = 0):
        self._folder, self._file = folder, folder / _FILES.replace("*", str(rank))
        self._kept: dict[str, dict[str, Any]] = {}
        # held until this process ends, however it ends
        self._held = open(folder / f".at-work-{rank}", "ab")  # noqa: SIM115
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvaluationError(
                f"{folder}: another pargo eval is at work in it; wait for it, or give another --out."
            ) from None
        except OSError as error:
            # some network file systems have no locks
            raise EvaluationError(
                f"{folder}: it cannot be locked ({error.strerror or error}); give an --out elsewhere."
            ) from error
        self.read()

    def close(self) -> None:
        """Let another run at the folder."""
        self._held.close()

    def read(self) -> None:
        """Read what all processes have written so far."""
        for file in sorted(self._folder.glob(_FILES)):
            for line in file.read_bytes().split(b"\n"):
                entry = _entry(line)
                if entry is not None:
                    self._kept.setdefault(entry["key"], entry)

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._kept[key]

    def add(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep answers by their keys; they are on the disk when this returns."""
        lines = [json.dumps({"key": key, **entry}) for key, entry in entries.items()]
        with open(self._file, "ab") as file:
            # a torn line, if there is one, ends here
            file.write(("\n" + "\n".join(lines) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        self._kept.update({key: {"key": key, **entry} for key, entry in entries.items()})


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("key"), str) else None
