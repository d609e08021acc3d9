"""Records as other trainers write them, made into a LLaVA list."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pargo_mllm.data.corpus import CorpusError, counted
from pargo_mllm.data.pictures import PictureError, content_of_url, stored_size
from pargo_mllm.data.preparation.picture_places import suffix_of
from pargo_mllm.data.sources.json_rows import DAMAGED, json_lines, json_rows
from pargo_mllm.data.sources.llava import DATA, LINES, picture_folder, read_record
from pargo_mllm.data.sources.llava_records import UnusableRecord
from pargo_mllm.data.sources.opening import leads_inside
from pargo_mllm.data.whole_pictures import check_whole
from pargo_mllm.files import whole_file

NO_PICTURE = "records that hold a picture which cannot be read"
NO_NUMBER = "records with a number that JSON does not have (NaN, Infinity)"
DEEP = "records that are nested too deeply to be written"


@dataclass
class Conversion:
    """What became of a file: ``read = written + skipped``.

    Args:
        image_root: the folder that pictures are named from.
        is_elsewhere: whether training must be told of it, for it is not where the list's own would be.
        pictures: files that were made of pictures which stood in records, in ``folder``.
    """

    file: Path
    out: Path
    image_root: Path
    is_elsewhere: bool = False
    read: int = 0
    written: int = 0
    pictures: int = 0
    folder: str | None = None
    skipped: Counter[str] = field(default_factory=Counter)

    def told(self) -> dict[str, Any]:
        """As JSON."""
        paths = {"file": str(self.file), "out": str(self.out), "image_root": str(self.image_root)}
        return {**self.__dict__, **paths, "skipped": dict(sorted(self.skipped.items()))}


def convert(file: Path, out: Path, image_root: Path | None = None) -> Conversion:
    """Write a file's records as a LLaVA list, a record a line, in flat memory; it is there when it is complete.

    A record keeps its id, and every key that says nothing of turns or pictures. Pictures that are named stay where they are.
    One that stands in a record (a ``data:`` URL) becomes a file, named by its content, in ``NAME-pictures`` of the folder that
    pictures are named from, NAME being that of the list.

    Args:
        file: a JSON list; ``.jsonl``: JSON Lines.
        out: ``.json``, or ``.jsonl``; absent.
        image_root: the folder that pictures are named from; absolute names may lead into it. None: that of ``file``.

    Raises:
        CorpusError: if ``file`` cannot be read or holds no usable record; if ``out`` is there, or has another ending; and if
            some pictures are named from beside ``file`` while others would lie beside ``out``, somewhere else.
    """
    if out.suffix.lower() not in (".json", ".jsonl"):
        raise CorpusError(f"--out {out} must end with .json (a list) or .jsonl (a record a line).")
    if out.exists() or out.is_symlink():
        raise CorpusError(f"{out} is there already; remove it, or give another name.")
    if image_root is not None and not image_root.is_dir():
        raise CorpusError(f"--image-root {image_root} is no folder; give the one that the names in {file} lead from.")
    own = image_root or picture_folder(out)
    done = Conversion(file, out, image_root or picture_folder(file))
    inline = _Inline(own, f"{out.stem}-pictures")
    named = False
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as aside, open(aside, "wb") as written:
            is_list = out.suffix.lower() == ".json"
            written.write(b"[\n" if is_list else b"")
            for record, names in _records(done, None if image_root is None else str(image_root.absolute()), inline):
                named = named or any(not name.startswith(DATA) for name in names)
                written.write((b",\n" if is_list else b"\n") * bool(done.written) + record)
                done.written += 1
            written.write(b"\n]\n" if is_list else b"\n")
            if not done.written:
                raise CorpusError(f"{file} holds no record that can be used{counted(done.skipped)}.")
            differs = done.image_root.resolve() != own.resolve()
            if named and inline.names and differs:
                raise CorpusError(
                    f"{file} names some pictures from {done.image_root} on and holds others, which would lie in {own}; a list "
                    f"has one folder: write --out beside {file}, or say --image-root."
                )
    except OSError as error:
        raise CorpusError(f"{out} cannot be written: {error}") from error
    done.image_root = done.image_root if named else own
    done.is_elsewhere = named and picture_folder(out).resolve() != done.image_root.resolve()
    done.pictures, done.folder = len(inline.names), str(inline.root / inline.folder) if inline.names else None
    return done


def _records(done: Conversion, root: str | None, inline: _Inline) -> Iterator[tuple[bytes, list[str]]]:
    """The line of each usable record, and its pictures as it had them."""
    for row in (json_lines if done.file.suffix.lower() == ".jsonl" else json_rows)(done.file):
        done.read += 1
        if row.value is DAMAGED:
            done.skipped[LINES] += 1
            continue
        try:
            record, names, _ = read_record(row.value, root)
            yield _line(_with_pictures(record, names, inline)), names
        except UnusableRecord as problem:
            done.skipped[problem.reason] += 1
        except PictureError:
            done.skipped[NO_PICTURE] += 1


def _with_pictures(record: dict[str, Any], names: list[str], inline: _Inline) -> dict[str, Any]:
    """The record with its keys in one order, and files' names in place of pictures."""
    names = [inline.file(name) if name.startswith(DATA) else name for name in names]
    first = {"id": record["id"]} if "id" in record else {}
    image = {"image": names[0] if len(names) == 1 else names} if names else {}
    rest = {
        key: value for key, value in record.items() if key not in ("id", "image", "images", "conversations", "conversatons")
    }
    return {**first, **image, **rest, "conversations": record["conversations"]}


def _line(record: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise UnusableRecord(NO_NUMBER, "it holds a number that JSON does not have") from error
    except RecursionError as error:
        raise UnusableRecord(DEEP, "it is nested too deeply to be written") from error
    try:
        return text.encode()
    # half a character, in an id or in what nobody reads, is kept as JSON can say it
    except UnicodeEncodeError:
        return json.dumps(record).encode()


class _Inline:
    """Pictures that stood in records, laid into a folder under the names of their contents."""

    def __init__(self, root: Path, folder: str):
        self.root, self.folder = root, folder
        self.names: set[str] = set()

    def file(self, url: str) -> str:
        """The name, below the root, of the file that holds the picture.

        Raises:
            PictureError: if it is no picture.
            OSError: if it cannot be written.
        """
        content = content_of_url(url)
        stored_size(content)
        check_whole(content, "a picture in a record")
        name = f"{self.folder}/{hashlib.sha256(content).hexdigest()[:32]}.{suffix_of(content)}"
        if not leads_inside(name):
            raise CorpusError(f"pictures cannot lie in a folder called {self.folder!r}; give --out another name.")
        if name not in self.names:
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file, shared=True, durable=False) as aside:
                aside.write_bytes(content)
            self.names.add(name)
        return name
