"""The folder of a job that is under way: what it was begun with, and which pieces are done."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pargo_mllm.errors import UserError
from pargo_mllm.files import write_whole

WORK = ".work"
SETTINGS = "settings.json"


class WorkFolder:
    """``OUT/.work``: one process at a time has it, and only a job with the same settings goes on with it.

    Args:
        out: the folder that the job makes.
        settings: what the outcome depends on, as JSON: sources, options; not the number of processes.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]):
        self.out, self.path, self.settings = out, out / WORK, json.loads(json.dumps(settings))

    @contextmanager
    def held(self) -> Iterator[Path]:
        """The folder, while this process alone has it.

        Raises:
            UserError: if another process has it, or it was begun with other settings, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"{self.out} cannot be written: {error.strerror or error}.") from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"{self.out} is being written by another process; wait for it, or give another --out."
                ) from error
            self._compare()
            yield self.path
        finally:
            os.close(lock)

    def remove(self) -> None:
        """Remove it, when the outcome stands."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _compare(self) -> None:
        file = self.path / SETTINGS
        if not file.exists():
            write_whole(file, json.dumps(self.settings, indent=2))
            return
        try:
            begun = json.loads(file.read_text())
        except ValueError:
            begun = None
        if begun != self.settings:
            names = sorted(
                name for name in {*self.settings, *(begun or ())} if (begun or {}).get(name) != self.settings.get(name)
            )
            raise UserError(
                f"{self.out} was begun with another {', '.join(names)}; give the same to go on, another --out, or remove it."
            )
