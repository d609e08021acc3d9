"""The cache of stage 0 and of the demonstration: a complete folder for each name, settings and state of the code."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pargo_mllm.files import sync, what_is_wrong, write_manifest

# the code whose change makes a finished stage out of date
_SOURCES = (
    "assembly.py",
    "configuration.py",
    "files.py",
    "loss.py",
    "modeling.py",
    "processing.py",
    "data",
    "evaluation",
    "language",
    "miniature",
    "projectors",
    "training",
)


class FolderCache:
    """Complete folders below ``root``, one for each name and settings.

    Args:
        root: where the folders are; made when missing.
        say: gets one line when a broken folder is set aside.
    """

    def __init__(self, root: str | os.PathLike, say: Callable[[str], None] = print):
        self.root = Path(root)
        self.say = say

    def path(self, name: str, settings: dict[str, Any]) -> Path:
        """Where the folder of these settings is, complete or not."""
        return self.root / f"{name}-{settings_key(settings)}"

    def find(self, name: str, settings: dict[str, Any]) -> Path | None:
        """The complete folder of these settings, or None."""
        folder = self.path(name, settings)
        if not folder.exists():
            return None
        problem = what_is_wrong(folder)
        if problem is None:
            return folder
        self.say(f"{folder} is not used: {problem}")
        return None

    def get(self, name: str, settings: dict[str, Any], build: Callable[[Path], None]) -> Path:
        """The complete folder of these settings; ``build(folder)`` fills a new one where there is none."""
        found = self.find(name, settings)
        if found is not None:
            return found
        folder = self.path(name, settings)
        self.root.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers(folder.name)
        aside = self.root / f".{folder.name}.{os.getpid()}.partial"
        aside.mkdir()
        build(aside)
        write_manifest(aside, settings)
        if folder.exists():
            # broken, or finished by another process in the meantime
            if what_is_wrong(folder) is None:
                shutil.rmtree(aside)
                return folder
            shutil.rmtree(folder)
        os.rename(aside, folder)
        sync(self.root)
        return folder

    def _remove_leftovers(self, name: str) -> None:
        for leftover in self.root.glob(f".{name}.*.partial"):
            owner = leftover.name.split(".")[-2]
            if not owner.isdigit() or int(owner) == os.getpid() or not _alive(int(owner)):
                shutil.rmtree(leftover, ignore_errors=True)


def settings_key(settings: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for the settings and for the code that interprets them."""
    text = json.dumps({"settings": settings, "code": _code_digest()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@functools.cache
def _code_digest() -> str:
    # once a process: what runs is the code as it was imported
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for source in _SOURCES:
        path = package / source
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
