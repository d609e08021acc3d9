"""Which pictures there are: in a folder, on a list, in shards, or in the records of training data."""

from __future__ import annotations

import io
import os
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pargo_mllm.data.corpus import CorpusError, is_text
from pargo_mllm.data.held_out import name_hash
from pargo_mllm.data.open_corpus import is_list
from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped, turns
from pargo_mllm.data.preparation.official_files import OfficialFiles
from pargo_mllm.data.preparation.run import LIST
from pargo_mllm.data.sources.json_rows import DAMAGED, MAX_ROW, json_lines, json_rows
from pargo_mllm.data.sources.llava_records import UnusableRecord, picture_names
from pargo_mllm.data.sources.opening import leads_inside, named_file, open_regular
from pargo_mllm.data.sources.photographs_folder import CAPTION_PROMPT
from pargo_mllm.data.sources.shard_index import shard_members
from pargo_mllm.data.sources.shard_samples import PICTURES
from pargo_mllm.data.sources.shards import is_shard

OTHER_FILES = "files whose names do not end as those of pictures"
HIDDEN = "hidden files and folders"
LINKED = "folders that are links, which are not gone into"
NO_TEXT = "names that are no UTF-8"
OUTSIDE = "names that lead out of the folder, or are none"
TWICE = "names that stood there before"
NO_PICTURE = "records without a picture"
NO_RECORD = "lines and entries that are no record"

Entries = Iterator[Entry | Skipped]


@dataclass(frozen=True)
class Found:
    """Pictures that somebody wants described.

    Args:
        files: the folder that they lie below.
        entries: one a picture, in an order that is always the same; and what is none.
    """

    files: OfficialFiles
    entries: Callable[[], Entries]


def find_pictures(images: Path, image_root: Path | None = None) -> Found:
    """The pictures that a path leads to.

    Args:
        images: a folder, with all below it; a list of names, one a line (``.txt``); a LLaVA list (``.json``, ``.jsonl``); a
            folder with :file:`data.json`; webdataset shards, a folder of them or one.
        image_root: the folder that names on a list are from; else ``images`` beside it, or the one that the list lies in.

    Raises:
        UserError: if there is nothing of these.
    """
    if images.is_dir() and (images / LIST).is_file():
        images = images / LIST
    if not images.exists():
        raise CorpusError(f"{images} does not exist; give a folder of pictures, a list of names, shards or training data.")
    if is_list(images):
        return _listed(images, image_root or _beside(images), _of_records)
    if image_root is not None and (images.is_dir() or images.suffix.lower() == ".tar"):
        raise CorpusError(f"--image-root is for lists of names; {images} is none: leave it out.")
    if images.is_dir():
        files = OfficialFiles(images)
        if any(map(is_shard, images.iterdir())):
            return Found(files, lambda: _of_shards(files))
        return Found(files, lambda: _of_folder(images))
    if is_shard(images):
        files = OfficialFiles(images.parent)
        return Found(files, lambda: _of_shard(files, images.name, set()))
    root = image_root or images.parent
    return _listed(images, root, partial(_of_names, root=root))


def _beside(images: Path) -> Path:
    beside = images.parent / "images"
    return beside if beside.is_dir() else images.parent


def _listed(images: Path, root: Path, names: Callable[[Path], Iterator[str | Skipped]]) -> Found:
    def entries() -> Entries:
        seen: set[int] = set()
        for name in names(images):
            yield name if isinstance(name, Skipped) else _once(name, None, seen)

    return Found(OfficialFiles(root), entries)


def _once(name: str, picture: Picture | None, seen: set[int]) -> Entry | Skipped:
    if not is_text([name]):
        return Skipped(ascii(name), NO_TEXT)
    if not leads_inside(name):
        return Skipped(name, OUTSIDE)
    # ./a.png is a.png
    name = posixpath.normpath(name)
    # 64 bits of each: a million names take as much room as their numbers
    number = name_hash(name)
    if number in seen:
        return Skipped(name, TWICE)
    seen.add(number)
    return _entry(name, picture or Picture.file(name))


def _entry(name: str, picture: Picture) -> Entry:
    return Entry(name, picture, turns([(CAPTION_PROMPT, "")]))


def _of_folder(root: Path, below: str = "") -> Entries:
    """All below a folder, folders in the order of their names behind the files beside them."""
    try:
        found = sorted(os.scandir(root / below), key=lambda one: one.name)
    except OSError as error:
        raise CorpusError(f"{root / below} cannot be read: {error.strerror or error}.") from error
    folders = []
    for one in found:
        name = below + one.name
        if not is_text([name]):
            yield Skipped(ascii(name), NO_TEXT)
        elif one.name.startswith("."):
            yield Skipped(name, HIDDEN)
        elif one.is_dir():
            if one.is_symlink():
                yield Skipped(name, LINKED)
            else:
                folders.append(f"{name}/")
        elif one.name.rpartition(".")[2].lower() not in PICTURES:
            yield Skipped(name, OTHER_FILES)
        else:
            yield _entry(name, Picture.file(name))
    for folder in folders:
        yield from _of_folder(root, folder)


def _of_names(file: Path, root: Path) -> Iterator[str | Skipped]:
    """A name a line, empty lines being none. White space at its ends is of the name only where such a file lies there."""
    try:
        with io.BufferedReader(open_regular(file)) as lines:
            first = True
            while line := lines.readline(MAX_ROW):
                text = line.removeprefix(b"\xef\xbb\xbf") if first else line
                first = False
                try:
                    name = text.decode().strip("\r\n")
                except UnicodeDecodeError:
                    yield Skipped(ascii(text[:100]), NO_TEXT)
                    continue
                if trimmed := name.strip():
                    yield name if name != trimmed and leads_inside(name) and named_file(root, name).exists() else trimmed
    except OSError as error:
        raise CorpusError(f"{file} cannot be read: {error.strerror or error}.") from error


def _of_records(file: Path) -> Iterator[str | Skipped]:
    rows = json_lines(file) if file.suffix.lower() == ".jsonl" else json_rows(file)
    for number, row in enumerate(rows):
        id = _id(row.value, number)
        if row.value is DAMAGED or not isinstance(row.value, dict):
            yield Skipped(id, NO_RECORD)
            continue
        try:
            names = picture_names(row.value)
        except UnusableRecord as problem:
            yield Skipped(id, problem.reason)
            continue
        if not names:
            yield Skipped(id, NO_PICTURE)
        yield from names


def _id(record: Any, number: int) -> str:
    id = record.get("id") if isinstance(record, dict) else None
    return id if isinstance(id, str) and is_text([id]) else f"record {number}"


def _of_shards(files: OfficialFiles) -> Entries:
    seen: set[int] = set()
    for shard in files.ending(".tar"):
        yield from _of_shard(files, shard, seen)


def _of_shard(files: OfficialFiles, shard: str, seen: set[int]) -> Entries:
    """Pictures of a shard, whether a text stands beside them or not; ``images/000000/…`` they lie in by the shard's name."""
    for member in shard_members(files.container(shard)):
        if member.place is not None and member.name.rpartition(".")[2].lower() in PICTURES:
            name = f"{shard[: -len('.tar')]}/{member.name.removeprefix('./')}"
            yield _once(name, Picture("tar", (shard, *member.place), name), seen)
