"""Folders that are either complete or absent: long work that survives kill -9.

A folder is built beside its final place, described by a manifest with a checksum of every file, and renamed. A folder whose
manifest is missing or does not fit its files is never used.
"""

from __future__ import annotations

import hashlib
import json
import os
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
