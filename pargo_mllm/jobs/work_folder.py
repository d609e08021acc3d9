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
# bytes of it that are read
MOST = 2**20
# characters of a value in an error
_SHOWN = 100
_ABSENT: Any = object()


class WorkFolder:
    """``OUT/.work``: one process at a time has it, and only a job with the same settings goes on with it.

    Args:
        out: the folder that the job makes.
        job: its kind, such as "prepare": what another kind left half made is never gone on with.
        settings: what the outcome depends on, as JSON: sources, options; not the number of processes.
    """

    def __init__(self, out: Path, job: str, settings: Mapping[str, Any]):
        # as they are read back: a tuple is a list then
        self.out, self.path, self.settings = out, out / WORK, json.loads(json.dumps({"job": job, **settings}))

    @staticmethod
    def is_begun(out: Path, job: str) -> bool:
        """Whether a job of this kind has begun ``out``; or nobody has, and it holds nothing that could be lost: it is absent,
        empty, or was left when a job had done nothing yet.

        Raises:
            UserError: for settings, or a folder, that cannot be read.
        """
        work = out / WORK
        if not out.is_dir():
            return not os.path.lexists(out)
        if work.is_dir() and not work.is_symlink() and os.path.lexists(work / SETTINGS):
            return _settings(work / SETTINGS, out).get("job") == job
        try:
            return all(path == work for path in out.iterdir()) and not _holds_work(work)
        except OSError as error:
            raise UserError(f"{out} cannot be read: {error.strerror or error}.") from error

    @contextmanager
    def held(self) -> Iterator[Path]:
        """The folder, while this process alone has it.

        Raises:
            UserError: if another process has it, or it was begun with other settings, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # a link would lead out of the folder, a pipe would wait for somebody
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise UserError(f"{self.out} cannot be written: {error.strerror or error}.") from error
        try:
            self._have(lock)
            self._compare()
            yield self.path
        finally:
            os.close(lock)

    def _have(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # another process may have removed the folder, its work done, since this one opened the file in it
            mine = os.path.samestat(os.fstat(lock), os.stat(self.path / "lock"))
        except (BlockingIOError, FileNotFoundError):
            mine = False
        except OSError as error:
            raise UserError(f"{self.path / 'lock'} cannot be locked: {error.strerror or error}.") from error
        if not mine:
            raise UserError(f"{self.out} is being written by another process; wait for it, or give another --out.")

    def remove(self) -> None:
        """Remove it when the outcome stands, while it is :meth:`held`."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _compare(self) -> None:
        file = self.path / SETTINGS
        if not os.path.lexists(file):
            return self._write(file)
        begun = _settings(file, self.out)
        if begun == self.settings:
            return None
        # nothing has come of the other settings yet
        if begun.get("job") == self.settings["job"] and not _holds_work(self.path):
            return self._write(file)
        what = ", ".join(sorted(_differences(begun, self.settings)))
        raise UserError(f"{self.out} was begun with another {what}; give the same to go on, another --out, or remove it.")

    def _write(self, file: Path) -> None:
        try:
            write_whole(file, json.dumps(self.settings, indent=2))
        except OSError as error:
            raise UserError(f"{file} cannot be written: {error.strerror or error}.") from error


def _settings(file: Path, out: Path) -> dict[str, Any]:
    try:
        # a folder, a pipe or a text of another size that somebody laid there is not read
        begun = json.loads(file.read_text(encoding="utf-8")) if file.is_file() and file.stat().st_size <= MOST else None
    except (OSError, ValueError, RecursionError):
        begun = None
    if not isinstance(begun, dict):
        raise UserError(f"{file} is damaged: what {out} was begun with is not known; remove {file.parent}.")
    return begun


def _holds_work(work: Path) -> bool:
    """Whether there is a file in it that took work, or is somebody else's: anything but locks and settings."""
    if not work.is_dir() or work.is_symlink():
        return os.path.lexists(work)
    files = [path for path in work.rglob("*") if path.is_symlink() or not path.is_dir()]
    ours = (work / SETTINGS, work / f".{SETTINGS}.partial")
    return not all(path in ours or (path.name.endswith("lock") and path.lstat().st_size == 0) for path in files)


def _differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs, with both values; of settings in groups those in them."""
    for name in {*begun, *now}:
        was, wanted = begun.get(name, _ABSENT), now.get(name, _ABSENT)
        if isinstance(was, dict) and isinstance(wanted, dict):
            yield from _differences(was, wanted)
        elif was != wanted:
            yield f"{name} ({_told(was)}, not {_told(wanted)})"


def _told(value: Any) -> str:
    text = "nothing" if value is _ABSENT else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
