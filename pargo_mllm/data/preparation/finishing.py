"""A piece's entries become records: pictures are looked at, laid beside them, and everything is counted."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pargo_mllm.data.pictures import PictureError, stored_size
from pargo_mllm.data.preparation.entries import Entry, Skipped
from pargo_mllm.data.preparation.picture_places import content_of, suffix_of
from pargo_mllm.data.preparation.pieces import Counts, Piece
from pargo_mllm.data.sources.opening import leads_inside
from pargo_mllm.files import whole_file

ANOTHER_SIZE = "pictures of another size than the set says"
NAME = "pictures whose names lead out of the folder"

Laid = tuple[dict[str, Any], str | None, "Path | bytes | None"]


def finish(piece: Piece) -> Counts:
    """Write a piece's records with their pictures, unless it is done already."""
    if piece.done.exists():
        return Counts.read(piece.done)
    skipped: Counter[str] = Counter()
    entries = piece.entries()
    records = list(_records(entries, piece, skipped))
    (_write_shard if piece.shards else _write_list)(piece, records)
    answers = [turn["value"] for record, _, _ in records for turn in record["conversations"] if turn["from"] == "gpt"]
    counts = Counts(len(entries), len(records), skipped, sum(map(len, answers)), len(answers))
    counts.write(piece.done)
    return counts


def _records(entries: list[Entry | Skipped], piece: Piece, skipped: Counter[str]) -> Iterator[Laid]:
    """(record, name of its picture, the picture: a file, or bytes)."""
    for entry in entries:
        if isinstance(entry, Skipped):
            skipped[entry.reason] += 1
            continue
        record: dict[str, Any] = {"id": entry.id}
        name, content = None, None
        if entry.picture is not None:
            try:
                content = content_of(entry.picture, piece)
                (width, height), _ = stored_size(content, entry.picture.name)
            except PictureError as error:
                skipped[getattr(error, "reason", "pictures that are missing or cannot be read")] += 1
                continue
            if entry.size not in (None, (width, height)):
                skipped[ANOTHER_SIZE] += 1
                continue
            name = entry.picture.name.replace("{suffix}", suffix_of(content))
            if not leads_inside(name):
                skipped[NAME] += 1
                continue
            record["image"] = name
            if entry.frame is not None:
                record |= {"width": width, "height": height}
        if entry.frame is not None:
            record["frame"] = entry.frame
        yield {**record, "conversations": list(entry.conversations)}, name, content


def _write_list(piece: Piece, records: list[Laid]) -> None:
    for _, name, content in records:
        if name is not None and content is not None:
            _lay(content, piece.out / "images" / name, piece.copy)
    with whole_file(piece.records) as aside, open(aside, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record, _, _ in records)


def _lay(content: Path | bytes, file: Path, copy: bool) -> None:
    """A picture beside its record. One that several records, or another process, laid there is the same one."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    # what a machine's fault may leave half written is found by validation; a rerun after a kill finds none
    with whole_file(file, shared=True, durable=False) as aside:
        if isinstance(content, bytes):
            aside.write_bytes(content)
        elif copy:
            shutil.copyfile(content, aside)
        else:
            try:
                os.link(os.path.realpath(content), aside)
            except OSError:
                shutil.copyfile(content, aside)


def _write_shard(piece: Piece, records: list[Laid]) -> None:
    """Keys are numbers over all pieces; ids stand in the records."""
    with whole_file(piece.records) as aside, tarfile.TarFile(aside, "w", format=tarfile.GNU_FORMAT) as tar:
        for number, (record, name, content) in enumerate(records):
            key = f"{piece.number:06d}{number:06d}"
            if name is not None and content is not None:
                # in a shard a picture is what stands beside the record
                record = {key: value for key, value in record.items() if key != "image"}
                suffix = name.rpartition(".")[2].lower()
                _add(tar, f"{key}.{suffix}", content if isinstance(content, bytes) else content.read_bytes())
            _add(tar, f"{key}.json", json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
