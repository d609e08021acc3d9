"""Which files of a folder were laid by pargo filter: no other one is ever written over or removed."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path

from pargo_mllm.data.sources.opening import leads_inside, leads_out
from pargo_mllm.data.sources.shards import ABOUT
from pargo_mllm.errors import UserError
from pargo_mllm.files import sync, whole_file

LAID = ".laid.jsonl"


class LaidError(UserError):
    """A file that stands where one would be laid, and is somebody's own."""


class Laid:
    """The files that were laid in ``out``: of each its name, size and time, by which it is known again. They stand in
    :data:`LAID`, before the first of them is laid.

    Raises:
        LaidError: if that is damaged.
    """

    def __init__(self, out: Path):
        self.out = out
        self._known: set[tuple[str, int, int]] = set()
        try:
            if os.path.lexists(out / LAID):
                with open(out / LAID, encoding="ascii") as lines:
                    self._known = {(str(name), int(size), int(time)) for name, size, time in map(json.loads, lines)}
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise LaidError(
                f"{out / LAID} is damaged: which files of {out} may be replaced is not known; give another --out."
            ) from error

    def is_ours(self, name: str) -> bool:
        """Whether there is a file of this name that is still the one that was laid."""
        path = self.out / name
        try:
            return self._identity(path, name) in self._known and leads_inside(name) and not leads_out(self.out, path)
        except (OSError, ValueError):
            return False

    def check(self, name: str) -> None:
        """Refuse to write over a file.

        Raises:
            LaidError: if it is none that was laid.
        """
        if os.path.lexists(self.out / name) and not self.is_ours(name):
            raise LaidError(
                f"{self.out / name} is no file that pargo filter laid there, or has changed since; nothing is written over it: "
                "move it away, or give another --out."
            )

    def replace(self, new: Path, alone: bool) -> None:
        """Move all files of a folder to their places.

        Args:
            new: the folder, on the same disk.
            alone: whether they take the place of all that was laid before; ``about.json``, which speaks of that, goes first.

        Raises:
            LaidError: if something else stands in the place of one; nothing was moved then.
        """
        wanted = {str(path.relative_to(new)) for path in new.rglob("*") if not path.is_dir()}
        for folder in {parent for name in wanted for parent in (self.out / name).parents if self.out in parent.parents}:
            if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
                raise LaidError(f"{folder} is no folder of its own, where pictures would be laid; move it away.")
        # what is the same file already stays whose it is
        names = sorted(name for name in wanted if not _same(new / name, self.out / name))
        for name in names:
            self.check(name)
        laid = {self._identity(new / name, name) for name in names}
        before = self._known
        self._write(before | laid)
        if alone:
            (self.out / ABOUT).unlink(missing_ok=True)
        for name in names:
            (self.out / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(new / name, self.out / name)
        if alone:
            for name in sorted(name for name, _, _ in before if name not in wanted):
                self._remove(name)
            before = {one for one in before if one[0] in wanted}
        sync(self.out)
        self._write({one for one in before | laid if self.is_ours(one[0])})

    def _remove(self, name: str) -> None:
        if not self.is_ours(name):
            return
        (self.out / name).unlink()
        if name.endswith(".tar"):
            (self.out / f"{name}.index").unlink(missing_ok=True)
        for folder in (self.out / name).parents:
            if folder == self.out:
                return
            # others may lie in it
            with suppress(OSError):
                folder.rmdir()

    def _write(self, known: set[tuple[str, int, int]]) -> None:
        with whole_file(self.out / LAID) as aside, open(aside, "w", encoding="ascii") as lines:
            lines.writelines(f"{json.dumps(one)}\n" for one in sorted(known))
        self._known = known

    @staticmethod
    def _identity(path: Path, name: str) -> tuple[str, int, int]:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is no file")
        return name, status.st_size, status.st_mtime_ns


def _same(one: Path, other: Path) -> bool:
    return os.path.lexists(other) and not other.is_symlink() and os.path.samefile(one, other)
