"""Folders that are either complete or absent: long work that survives kill -9.

A folder is built beside its final place, described by a manifest with a checksum of every file, and renamed. A folder whose
manifest is missing or does not fit its files is never used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/pargo``, or ``~/.cache/pargo``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pargo"


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


@contextmanager
def whole_file(file: Path, shared: bool = False, durable: bool = True) -> Iterator[Path]:
    """A path beside ``file`` to write to; it takes the file's place when the block ends, and goes when the block fails.

    So the file is what it was or what it shall be, never half of it.

    Args:
        shared: several processes may be writing the same one; what one leaves when it is killed is not found again.
        durable: write through to the disk before the file appears; what is computed again when it is lost need not be.

    Raises:
        OSError: if a device stands there, which no file may replace; or as writing does.
    """
    if not file.is_symlink() and (file.is_char_device() or file.is_block_device()):
        raise OSError(errno.EINVAL, "it is a device", str(file))
    # the ending stays: some writers choose their format by it
    own = f".{file.stem}.{os.getpid()}-{secrets.token_hex(4)}.partial{file.suffix}"
    aside = file.with_name(own) if shared else _aside(file)
    try:
        yield aside
        if durable:
            sync(aside)
        os.replace(aside, file)
        if durable:
            sync(file.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder`` to fill; it takes the place of one that is absent or empty when the block ends."""
    aside = folder.with_name(f".{folder.name}.partial")
    # of an attempt that was killed
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    yield aside
    for path in aside.rglob("*"):
        sync(path)
    if folder.exists():
        folder.rmdir()
    os.rename(aside, folder)
    sync(folder.parent)


def write_whole(file: Path, text: str) -> None:
    """Write a file's text at once; see :func:`whole_file`."""
    with whole_file(file) as aside:
        aside.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Write a file, or the names of a folder's files, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _aside(file: Path) -> Path:
    return file.with_name(f".{file.name}.partial")
