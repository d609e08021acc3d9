"""Shards that others made: pictures with texts in tar files, as img2dataset writes them of LAION, CC-3M and SBU."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from functools import partial
from io import FileIO
from typing import Any

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.preparation.captions import SILENT, UNREADABLE, captioned
from pargo_mllm.data.preparation.data_set import COARSE, DataSet, Need, Options, PreparationError
from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped
from pargo_mllm.data.preparation.llava_lists import SEVERAL, turns_of
from pargo_mllm.data.preparation.official_files import OfficialFiles, of_each
from pargo_mllm.data.sources.json_rows import parse_json
from pargo_mllm.data.sources.llava_records import NO_TURNS, TURNS, UnusableRecord, check_media
from pargo_mllm.data.sources.opening import open_regular
from pargo_mllm.data.sources.record_forms import as_llava
from pargo_mllm.data.sources.shard_index import shard_samples
from pargo_mllm.data.sources.shard_samples import OTHER, LeftOut, Sample
from pargo_mllm.data.sources.shards import MAX_TEXT

NOT_JSON = "samples whose .json is none, or no object"
MOST_REASONS = 64
LARGE = f"samples with a text of more than {MAX_TEXT:,} bytes"


def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
    """A record a sample, of every shard in the order of its members; what makes a sample is said in docs/data.md.

    Its .json says the conversations, or the caption; where that has none, the .txt does.
    """
    yield from of_each(files.ending(".tar"), partial(_shard, files, set()))


def _shard(files: OfficialFiles, told: set[str], name: str) -> Iterator[Entry | Skipped]:
    path = files.container(name)
    stem = name.removesuffix(path.suffix)
    with open_regular(path) as opened:
        for number, found in enumerate(shard_samples(path)):
            if isinstance(found, LeftOut):
                # a stranger can invent any number of extensions
                reason = found.told if found.told in told or len(told) < MOST_REASONS else OTHER
                told.add(reason)
                # samples count once, and members that are of none one by one
                for _ in range(1 if found.is_sample else found.members):
                    yield Skipped(f"{stem}/{number}", reason)
            else:
                yield _entry(name, stem, number, found, opened)


def _entry(name: str, stem: str, number: int, sample: Sample, opened: FileIO) -> Entry | Skipped:
    id = f"{stem}/{posixpath.normpath(sample.key)}".encode("utf-8", "replace").decode()
    if len(sample.pictures) > 1:
        return Skipped(id, SEVERAL)
    if max(sample.json[1], sample.txt[1]) > MAX_TEXT:
        return Skipped(id, LARGE)
    picture = None
    if sample.pictures:
        picture = Picture("tar", (name, *sample.pictures[0]), f"{stem}/{number:08d}.{{suffix}}")
    record: Any = {}
    if sample.json[0]:
        try:
            record = parse_json(_read(opened, sample.json), name)
        except CorpusError:
            record = None
        if not isinstance(record, dict):
            return Skipped(id, NOT_JSON)
    try:
        # as training reads it
        record = as_llava(record)
        check_media(record)
    except UnusableRecord as error:
        return Skipped(id, error.reason)
    if any(key in record for key in TURNS):
        turns = turns_of(record)
        return Skipped(id, NO_TURNS) if turns is None else Entry(id, picture, turns)
    caption = record.get("caption")
    if caption is None and sample.txt[0]:
        try:
            caption = _read(opened, sample.txt).decode("utf-8-sig")
        except UnicodeDecodeError:
            return Skipped(id, UNREADABLE)
    if picture is None or not isinstance(caption, str):
        return Skipped(id, SILENT)
    return captioned(id, picture, caption)


def _read(opened: FileIO, place: tuple[int, int]) -> bytes:
    try:
        return os.pread(opened.fileno(), place[1], place[0])
    except OSError as error:
        raise PreparationError(f"{opened.name} cannot be read: {error.strerror or error}.") from error


ALL = [
    DataSet(
        name="webdataset",
        title="webdataset shards",
        kind=COARSE,
        about="pictures with captions in tar files, as img2dataset writes them: LAION, CC-3M, SBU",
        needs=(Need("*.tar", "samples: 000000012.jpg with .txt or .json, not compressed", "https://laion.ai/projects/"),),
        licence="that of the set of which somebody made the shards",
        size="as many samples as the shards that were downloaded",
        entries=entries,
    )
]
