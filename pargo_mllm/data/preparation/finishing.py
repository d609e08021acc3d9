"""A piece's entries become records: pictures are looked at, laid beside them, and everything is counted."""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pargo_mllm.data.corpus import is_text
from pargo_mllm.data.pictures import PictureError, stored_size
from pargo_mllm.data.pixels import QUARTERS
from pargo_mllm.data.preparation.entries import Entry, Skipped
from pargo_mllm.data.preparation.instructions import AGAIN
from pargo_mllm.data.preparation.laying import add_member, lay
from pargo_mllm.data.preparation.picture_places import OUTSIDE, PicturePlaces, suffix_of
from pargo_mllm.data.preparation.pieces import Counts, Piece
from pargo_mllm.data.sources.llava_records import HALF, UnusableRecord, record_messages
from pargo_mllm.data.sources.opening import leads_inside
from pargo_mllm.data.sources.shard_samples import PICTURES
from pargo_mllm.data.whole_pictures import check_whole
from pargo_mllm.files import sync, whole_file

UNREADABLE = "pictures that are missing or cannot be read"
ANOTHER_SIZE = "pictures of another size than the set says"
TURNED = "pictures that EXIF turns or mirrors, whose boxes may be those of the stored pixels"
ONE_NAME = "pictures with the name of another one (upper and lower case are one)"

Laid = tuple[dict[str, Any], str | None, "Path | bytes | None"]


@dataclass
class _Tally:
    """What became of the entries so far."""

    entries: int = 0
    records: int = 0
    characters: int = 0
    answers: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def count(self, record: dict[str, Any]) -> None:
        answers = [turn["value"] for turn in record["conversations"] if turn["from"] == "gpt"]
        self.records += 1
        self.characters += sum(map(len, answers))
        self.answers += len(answers)


def finish(piece: Piece) -> Counts:
    """Write a piece's records with their pictures, unless it is done already."""
    if piece.done.exists():
        return Counts.read(piece.done)
    tally = _Tally()
    (_write_shard if piece.shards else _write_list)(piece, _records(piece, tally))
    if piece.shards and not tally.records:
        piece.records.unlink()
    counts = Counts(tally.entries, tally.records, tally.skipped, tally.characters, tally.answers)
    counts.write(piece.done)
    return counts


def _records(piece: Piece, tally: _Tally) -> Iterator[Laid]:
    """(record, name of its picture, the picture: a file, or bytes), one at a time: pictures take more room than memory has."""
    entries = piece.entries()
    refused = {**dict.fromkeys(piece.clashing, ONE_NAME), **dict.fromkeys(piece.repeated, AGAIN)}
    places = PicturePlaces(piece, (entry.picture for entry in entries if isinstance(entry, Entry) and entry.picture))
    for number, entry in enumerate(entries):
        tally.entries += 1
        made = refused.get(number) or _record(entry, places)
        if isinstance(made, str):
            tally.skipped[made] += 1
        else:
            tally.count(made[0])
            yield made


def _record(entry: Entry | Skipped, places: PicturePlaces) -> Laid | str:
    """What an entry becomes, or why it becomes nothing."""
    if isinstance(entry, Skipped):
        return entry.reason
    unusable = _unusable(entry)
    if unusable is not None:
        return unusable
    record: dict[str, Any] = {"id": entry.id}
    name, content = None, None
    if entry.picture is not None:
        try:
            content = places.content(entry.picture)
            stored, turn = stored_size(content, entry.picture.name)
            check_whole(content, entry.picture.name)
        except (PictureError, OSError) as error:
            return getattr(error, "reason", UNREADABLE)
        width, height = upright = stored[::-1] if turn in QUARTERS else stored
        if entry.size not in (None, upright, stored):
            return ANOTHER_SIZE
        if entry.frame is not None and not _fits(entry.size, stored, turn):
            return TURNED
        name = entry.picture.name.replace("{suffix}", suffix_of(content))
        if not leads_inside(name):
            return OUTSIDE
        record["image"] = name
        if entry.frame is not None:
            record |= {"width": width, "height": height}
    if entry.frame is not None:
        record["frame"] = entry.frame
    record["conversations"] = list(entry.conversations)
    return record, name, content


def _fits(size: tuple[int, int] | None, stored: tuple[int, int], turn: int) -> bool:
    """Whether boxes lie for sure in the upright picture: of a quarter turn alone the set's size tells which pixels it means."""
    return turn == 1 or (turn in QUARTERS and size == stored[::-1] != stored)


def _unusable(entry: Entry) -> str | None:
    """Why training could not use the record, if it could not: what is prepared, it can."""
    if not is_text([entry.id]):
        return HALF
    try:
        record_messages({"conversations": list(entry.conversations)}, int(entry.picture is not None))
    except UnusableRecord as problem:
        return problem.reason
    return None


def _write_list(piece: Piece, records: Iterator[Laid]) -> None:
    with whole_file(piece.records, shared=True) as aside, open(aside, "w", encoding="utf-8") as file:
        for record, name, content in records:
            if name is not None and content is not None:
                lay(content, piece.out / "images" / name, piece.work / f"picture-{piece.number:06d}-{os.getpid()}", piece.copy)
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _write_shard(piece: Piece, records: Iterator[Laid]) -> None:
    """Keys are numbers over all pieces; ids stand in the records."""
    # in the folder of the job, too, and under a name of its own: a worker that its killed parent left behind may still write
    aside = piece.work / f"shard-{piece.number:06d}-{os.getpid()}"
    with tarfile.TarFile(aside, "w", format=tarfile.GNU_FORMAT) as tar:
        for number, (record, name, content) in enumerate(records):
            key = f"{piece.number:06d}{number:06d}"
            if name is not None and content is not None:
                # in a shard a picture is what stands beside the record
                record = {key: value for key, value in record.items() if key != "image"}
                suffix = name.rpartition(".")[2].lower()
                content = content if isinstance(content, bytes) else content.read_bytes()
                # it is decoded by its content; under another suffix it would not be looked for
                add_member(tar, f"{key}.{suffix if suffix in PICTURES else 'jpg'}", content)
            add_member(tar, f"{key}.json", json.dumps(record, ensure_ascii=False).encode())
    sync(aside)
    os.replace(aside, piece.records)
    sync(piece.out)
