"""The folder of official files that a user downloaded: hostile until read."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pargo_mllm.data.corpus import shown
from pargo_mllm.data.sources.json_rows import json_lines, json_list_of, json_members, json_rows
from pargo_mllm.data.sources.opening import leads_inside, named_file, open_regular
from pargo_mllm.errors import UserError

# bytes of a file that is read whole: the largest official one, Visual Genome's regions, has 700 MB
MAX_WHOLE = 2**31


class MissingFile(UserError):
    """An official file that is not there; the message says which, and what lies there instead."""


class OfficialFiles:
    """What lies below ``--src``.

    Names are relative, lead nowhere outside, and are noted: :attr:`read` says which files an outcome was made of.
    """

    def __init__(self, root: Path):
        """Raises :class:`MissingFile` if there is no such folder."""
        self.root = root
        self.read: dict[str, tuple[int, int]] = {}
        if not root.is_dir():
            raise MissingFile(f"{root} is no folder; --src is the one that the official files lie in.")

    def path(self, *names: str) -> Path:
        """The file of the first of these names that is there.

        Raises:
            MissingFile: if none is; the message says what lies there.
        """
        for name in names:
            if not leads_inside(name):
                raise ValueError(f"{name!r} leads out of the folder")
            path = named_file(self.root, name)
            if path.is_file():
                status = path.stat()
                self.read[name] = (status.st_size, status.st_mtime_ns)
                return path
        raise MissingFile(f"{self.root} has no {' nor '.join(names)}; there {self._lies()}.")

    def folder(self, *names: str) -> str:
        """The first of these names that is a folder; "" is the source itself.

        Raises:
            MissingFile: if none is.
        """
        for name in names:
            if not name or named_file(self.root, name).is_dir():
                return name
        raise MissingFile(f"{self.root} has no folder {' nor '.join(names)}; there {self._lies()}.")

    def json(self, *names: str) -> Any:
        """The value of a JSON file that is read whole.

        Raises:
            MissingFile: if it is not there.
            UserError: if it is no JSON, or larger than :data:`MAX_WHOLE`.
        """
        path = self.path(*names)
        try:
            with open_regular(path) as opened:
                if os.fstat(opened.fileno()).st_size > MAX_WHOLE:
                    raise UserError(f"{path} is larger than {MAX_WHOLE:,} bytes, the most that is read whole.")
                return json.loads(opened.read().decode("utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} cannot be read as JSON: {error}.") from error

    def members(self, *names: str) -> Iterator[tuple[str, Any]]:
        """The names and values of a JSON object, one at a time, in flat memory."""
        return json_members(self.path(*names))

    def listed(self, key: str, *names: str) -> Iterator[Any]:
        """The elements of the list that a JSON object has under ``key``, one at a time, in flat memory."""
        for row in json_list_of(self.path(*names), key):
            yield row.value

    def first(self, *names: str) -> str:
        """The first of these names that something lies at, else the first of all: it is counted when it is looked for."""
        return next((name for name in names if leads_inside(name) and named_file(self.root, name).exists()), names[0])

    def rows(self, *names: str) -> Iterator[Any]:
        """The elements of a JSON list, or of JSON Lines, one at a time, in flat memory; a line that is no JSON is
        :data:`pargo_mllm.data.sources.json_rows.DAMAGED`.
        """
        path = self.path(*names)
        for row in (json_lines if path.suffix.lower() in (".jsonl", ".ndjson") else json_rows)(path):
            yield row.value

    def _lies(self) -> str:
        names = sorted(path.name + "/" * path.is_dir() for path in self.root.iterdir())
        zips = [name for name in names if zipfile.is_zipfile(self.root / name)] if len(names) < 200 else []
        hint = f" ({', '.join(map(shown, zips[:3]))} must be unpacked)" if zips else ""
        return (
            f"lies {', '.join(shown(name, 60) for name in names[:8])}{', …' * (len(names) > 8)}{hint}"
            if names
            else "lies nothing"
        )
