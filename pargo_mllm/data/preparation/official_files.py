"""The folder of official files that a user downloaded: hostile until read."""

from __future__ import annotations

import codecs
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pargo_mllm.data.corpus import shown
from pargo_mllm.data.preparation.need import Need
from pargo_mllm.data.sources.json_rows import as_said, as_text, json_lines, json_list_of, json_members, json_rows
from pargo_mllm.data.sources.opening import leads_inside, named_file, no_text, open_regular
from pargo_mllm.errors import UserError

# bytes of a file that is read whole: the largest official one, Visual Genome's regions, has 700 MB
MAX_WHOLE = 2**31
# bytes of a line of text
MAX_LINE = 2**20
# damaged files that an error names
MOST_NAMED = 100
# endings of what must be unpacked
PACKED = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst")

T = TypeVar("T")


class MissingFile(UserError):
    """An official file that is not there; the message says which, and what lies there instead."""


class OfficialFiles:
    """What lies below ``--src``.

    Names are relative, lead nowhere outside, and are noted: :attr:`read` says which files an outcome was made of.
    """

    def __init__(self, root: Path, needs: Sequence[Need] = ()):
        """
        Args:
            needs: what should lie there; an error says of a missing file what it is and where it is to be had.

        Raises:
            MissingFile: if there is no such folder.
        """
        self.root, self.needs = root, needs
        # size and time of modification in ns, as they were when the file was opened
        self.read: dict[str, tuple[int, int]] = {}
        # of these, files that hold the pictures themselves
        self.containers: set[str] = set()
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
        raise MissingFile(f"{self.root} has no {' nor '.join(names)}{self._home(names)}; there {self._lies(names)}.")

    def container(self, name: str) -> Path:
        """As :meth:`path`; of a file that holds the pictures themselves, whose checksum would take as long as reading them."""
        path = self.path(name)
        self.containers.add(name)
        return path

    def folder(self, *names: str) -> str:
        """The first of these names that is a folder; "" is the source itself.

        Raises:
            MissingFile: if none is.
        """
        for name in names:
            if not name or named_file(self.root, name).is_dir():
                return name
        raise MissingFile(
            f"{self.root} has no folder {' nor '.join(names)}{self._home(names)}; there {self._lies(names, is_folder=True)}."
        )

    def ending(self, *endings: str) -> list[str]:
        """Names of the files that end so (".tar"), in the source itself and in its folders, sorted; hidden ones are none.

        Raises:
            MissingFile: if there is none.
        """
        folders = [self.root, *sorted(path for path in self.root.iterdir() if path.is_dir() and path.name[0] != ".")]
        names = [
            str(path.relative_to(self.root))
            for folder in folders
            for path in sorted(folder.iterdir())
            if path.name[0] != "." and path.suffix.lower() in endings and path.is_file()
        ]
        if not names:
            wanted = " nor ".join(f"*{ending}" for ending in endings)
            raise MissingFile(f"{self.root} has no {wanted}{self._home(())}; there {self._lies(())}.")
        return names

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
                content = opened.read()
            return json.loads(as_text(content))
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} cannot be read as JSON: {as_said(error)}.") from error

    def rows(self, *names: str) -> Iterator[Any]:
        """The elements of a JSON list, or of JSON Lines, one at a time, in flat memory; a line that is no JSON is
        :data:`pargo_mllm.data.sources.json_rows.DAMAGED`.
        """
        path = self.path(*names)
        for row in (json_lines if path.suffix.lower() in (".jsonl", ".ndjson") else json_rows)(path):
            yield row.value

    def lines(self, *names: str) -> Iterator[str | None]:
        """The lines of a text without their ends, one at a time; None for one that is no UTF-8, or longer than
        :data:`MAX_LINE` bytes.
        """
        path = self.path(*names)
        try:
            with io.BufferedReader(open_regular(path)) as opened:
                if why := no_text(opened.peek(8)[:8]):
                    raise UserError(f"{path} cannot be read as text: {why}.")
                is_first = True
                while line := opened.readline(MAX_LINE + 1):
                    fits = len(line) <= MAX_LINE
                    rest = line
                    while not fits and rest and not rest.endswith(b"\n"):
                        rest = opened.readline(MAX_LINE)
                    yield _decoded(line.removeprefix(codecs.BOM_UTF8) if is_first else line) if fits else None
                    is_first = False
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error

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

    def _home(self, names: Sequence[str]) -> str:
        """What a missing file is, where that is known, and where it is to be had."""
        known = {need.name.rstrip("/"): need for need in self.needs}
        meant = next((known[name] for name in names if name in known), None)
        if meant is not None:
            return f" ({meant.what}; {meant.home})"
        homes = dict.fromkeys(need.home for need in self.needs)
        return f" ({', '.join(homes)})" if homes else ""

    def _lies(self, names: Sequence[str], is_folder: bool = False) -> str:
        lying = sorted(path.name + "/" * path.is_dir() for path in self.root.iterdir())
        if not lying:
            return "lies nothing"
        packed = [name for name in lying if name.lower().endswith(PACKED)]
        hint = f" ({', '.join(map(shown, packed[:3]))} must be unpacked)" if packed else ""
        for name in packed:
            if held := _held(self.root / name, names, is_folder):
                hint = f" ({shown(name)} holds {shown(held)}: unpack it)"
                break
        return f"lies {', '.join(shown(name, 60) for name in lying[:8])}{', …' * (len(lying) > 8)}{hint}"


def of_each(names: Sequence[str], read: Callable[[str], Iterator[T]]) -> Iterator[T]:
    """What is read of each of these files, one after the other. All of them are tried, so that one error names all that are
    damaged.

    Raises:
        UserError: if one or several cannot be read.
    """
    faults: list[UserError] = []
    for name in names:
        try:
            for one in read(name):
                # with an error nothing comes of what is read behind it
                if not faults:
                    yield one
        except UserError as error:
            faults.append(error)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        told = "; ".join(f"{fault}".rstrip(".") for fault in faults[:MOST_NAMED])
        more = f"; and {len(faults) - MOST_NAMED:,} more" * (len(faults) > MOST_NAMED)
        raise UserError(f"{len(faults):,} of {len(names):,} files cannot be used: {told}{more}.")


def _decoded(line: bytes) -> str | None:
    try:
        return line.rstrip(b"\r\n").decode()
    except UnicodeDecodeError:
        return None


def _held(file: Path, names: Sequence[str], is_folder: bool) -> str | None:
    """The member of a zip that is one of these, whatever folder it lies in there; nothing is unpacked."""
    ends = [f"/{name.rstrip('/')}{'/' if is_folder else ''}" for name in names if name]
    try:
        if not zipfile.is_zipfile(file) or not ends:
            return None
        with zipfile.ZipFile(file) as opened:
            for member in opened.namelist():
                for end in ends:
                    place = f"/{member}".find(end)
                    if place >= 0 and (is_folder or place + len(end) == len(member) + 1):
                        return member[: place + len(end) - 1].rstrip("/")
    # a stranger's archive
    except Exception:
        return None
    return None
