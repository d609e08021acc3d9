"""Folders that are either complete or absent: long work that survives kill -9.

A folder is built beside its final place, described by a manifest with a checksum of every file, and renamed. A folder whose
manifest is missing or does not fit its files is never used.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
# the code whose change makes a finished stage out of date
_SOURCES = (
    "assembly.py",
    "configuration.py",
    "modeling.py",
    "processing.py",
    "data",
    "demo/miniature.py",
    "demo/phases.py",
    "evaluation",
    "language",
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


def what_is_wrong(folder: Path) -> str | None:
    """Why a folder must not be used, or None for a complete one."""
    try:
        files = dict(json.loads((folder / MANIFEST).read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return "it has no readable manifest"
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if file_digest(path) != digest:
            return f"{name} is not what was written"
    return None


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def write_manifest(folder: Path, settings: dict[str, Any]) -> None:
    """Make a folder complete: its settings and a checksum of every file, written through to the disk.

    An earlier manifest is replaced.
    """
    manifest_file = folder / MANIFEST
    below = sorted(folder.rglob("*"))
    for path in below:
        sync(path)
    # an earlier manifest, or half of one, is not among the files that it speaks of
    files = [path for path in below if path.is_file() and path not in (manifest_file, _aside(manifest_file))]
    manifest = {"settings": settings, "files": {str(path.relative_to(folder)): file_digest(path) for path in files}}
    write_whole(manifest_file, json.dumps(manifest, indent=2))


def write_whole(file: Path, text: str) -> None:
    """Write a file aside and rename it: it is what it was or what it shall be, never half of it."""
    aside = _aside(file)
    aside.write_text(text)
    sync(aside)
    os.replace(aside, file)
    sync(file.parent)


def sync(path: Path) -> None:
    """Write a file, or the names of a folder's files, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _aside(file: Path) -> Path:
    return file.with_name(f".{file.name}.partial")


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
