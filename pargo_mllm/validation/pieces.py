"""Pieces of a data set: what a worker looks at, and the samples in it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from pargo_mllm.data.corpus import CorpusError, about_image, shown
from pargo_mllm.data.sources.json_rows import MAX_ROW
from pargo_mllm.data.sources.llava_records import MARK, TURNS, UnusableRecord, check_media
from pargo_mllm.data.sources.opening import open_regular
from pargo_mllm.data.sources.photographs_folder import CAPTION_PROMPT
from pargo_mllm.data.sources.record_forms import as_llava
from pargo_mllm.data.sources.shard_index import find_index, left_out, num_samples, scan_shard
from pargo_mllm.data.sources.shards import MAX_TEXT
from pargo_mllm.validation.findings import Finding
from pargo_mllm.validation.json_structure import count_keys, elements, lines_up_to
from pargo_mllm.validation.record_checks import check_record
from pargo_mllm.validation.samples import Sample, SamplePicture


@dataclass
class Reading:
    """What reading a piece says beside its samples.

    Args:
        found: what is wrong with the file itself.
        lines: line ends in it.
        ended: whether nothing behind it can be read.
    """

    found: list[Finding] = field(default_factory=list)
    lines: int = 0
    ended: bool = False


@dataclass(frozen=True)
class ListPiece:
    """Records of a LLaVA list: bytes ``start`` to ``end`` of its file.

    Args:
        images: the folder that pictures are named from.
        root: where absolute names may lead; nowhere when None.
        lines: whether each line is a record.
    """

    file: Path
    images: Path
    root: str | None
    start: int
    end: int
    lines: bool

    def samples(self, reading: Reading) -> Iterator[Sample]:
        """Its records, each with what is wrong with it as it stands."""
        with open_regular(self.file) as opened:
            content = os.pread(opened.fileno(), self.end - self.start, self.start)
        starts, ends, keys = elements(content, self.lines)
        reading.lines = content.count(b"\n")
        places = iter(zip(starts.tolist(), ends.tolist(), keys.tolist(), strict=True))
        rows = []
        for begin, end, count in places:
            text = content[begin:end]
            body = text.lstrip(b" \t\n\r")
            if body or not self.lines:
                rows.append((begin + len(text) - len(body), body.rstrip(b" \t\n\r"), count))
        for number, ((begin, text, count), line) in enumerate(
            zip(rows, lines_up_to(content, iter([row[0] for row in rows])), strict=True)
        ):
            sample = Sample(self.file.name, number, line + 1, self.start + begin)
            value = self._value(text, count, sample)
            if value is BROKEN:
                if not self.lines and any(one.kind == "file_broken" for one in sample.found):
                    reading.found += sample.found
                    reading.ended = True
                    return
            else:
                check_record(value, sample, self.images, self.root)
            yield sample

    def _value(self, text: bytes, keys: int, sample: Sample) -> Any:
        """What an element says; :data:`BROKEN` where it is no JSON, with that noted."""
        try:
            value = orjson.loads(text)
            # it takes whole numbers of more than 64 bits for others
            if not (isinstance(value, dict) and isinstance(value.get("id"), float)) and count_keys(value) == keys:
                return value
        except ValueError:
            pass
        broken = "line_broken" if self.lines else "file_broken"
        try:
            decoded = text.decode()
        except UnicodeDecodeError as error:
            sample.add("invalid_utf8", f"its byte {error.start:,} is {text[error.start : error.start + 1]!r}")
            return BROKEN
        if len(decoded) > MAX_ROW:
            sample.add(broken, f"it is longer than {MAX_ROW:,} characters")
            return BROKEN
        twice: list[str] = []
        try:
            value = json.JSONDecoder(object_pairs_hook=lambda pairs: _object(pairs, twice)).decode(decoded)
        except RecursionError:
            sample.add(broken, "it is nested too deeply")
            return BROKEN
        except ValueError as error:
            at = error.pos if isinstance(error, json.JSONDecodeError) else 0
            why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            place = (sample.byte or 0) + len(decoded[:at].encode("utf-8", "surrogatepass"))
            sample.add(broken, f"byte {place:,}: {why}, at {shown(decoded[at : at + 40])!r}")
            return BROKEN
        if twice:
            sample.add("duplicate_key", f"{', '.join(repr(shown(key, 40)) for key in dict.fromkeys(twice[:5]))}")
        if not _is_finite(value):
            sample.add("not_finite", "a number is NaN or infinite")
        return value


# the value of an element that is no JSON
BROKEN = object()


@dataclass(frozen=True)
class ShardPiece:
    """A shard."""

    file: Path

    def samples(self, reading: Reading) -> Iterator[Sample]:
        """Its samples."""
        name = self.file.name
        try:
            rows = find_index(self.file, None)
            rows = scan_shard(self.file) if rows is None else rows
            with open_regular(self.file) as opened:
                reading.found += _left(rows, name)
                for number, row in enumerate(rows[1 : 1 + num_samples(rows)]):
                    yield self._sample(opened.fileno(), row, number)
        except (CorpusError, OSError) as error:
            reading.found.append(Finding("shard_broken", shown(str(error), 400), name))

    def _sample(self, descriptor: int, row: Any, number: int) -> Sample:
        key = shown(row["key"].decode("utf-8", "replace"))
        sample = Sample(self.file.name, number, id=key)
        places = [(int(offset), int(size)) for offset, size in row["pictures"] if offset]
        pictures = [SamplePicture(f"{key}, picture {at}", self.file, self.file.parent, one) for at, one in enumerate(places)]
        sample.pictures = pictures
        text = row["json"] if row["json"][0] else row["txt"]
        sample.byte = int(text[0])
        if text[1] > MAX_TEXT:
            sample.add("unusable", f"its text takes {int(text[1]):,} bytes")
            return sample
        content = os.pread(descriptor, int(text[1]), int(text[0]))
        value: Any = {}
        if row["json"][0]:
            value = self._parsed(content, sample)
        if value is BROKEN:
            return sample
        if not isinstance(value, dict) or _has_turns(value):
            check_record(value, sample, self.file.parent, None, beside=len(pictures))
            return sample
        caption = value.get("caption")
        if caption is None and row["txt"][0]:
            content = os.pread(descriptor, min(int(row["txt"][1]), MAX_TEXT), int(row["txt"][0]))
            try:
                caption = content.decode("utf-8-sig")
            except UnicodeDecodeError:
                sample.add("invalid_utf8", "its caption is no UTF-8")
                return sample
        self._caption(caption, value, sample)
        sample.record = value
        return sample

    def _parsed(self, content: bytes, sample: Sample) -> Any:
        twice: list[str] = []
        try:
            decoder = json.JSONDecoder(object_pairs_hook=lambda pairs: _object(pairs, twice))
            value = decoder.decode(content.decode("utf-8-sig"))
        except UnicodeDecodeError:
            sample.add("invalid_utf8", "its .json is no UTF-8")
            return BROKEN
        except (ValueError, RecursionError) as error:
            sample.add("line_broken", f"its .json is none: {shown(str(error))}")
            return BROKEN
        if twice:
            sample.add("duplicate_key", f"{', '.join(repr(shown(key, 40)) for key in dict.fromkeys(twice[:5]))}")
        if not _is_finite(value):
            sample.add("not_finite", "a number is NaN or infinite")
        return value

    def _caption(self, caption: Any, record: dict[str, Any], sample: Sample) -> None:
        pictures = sample.pictures
        try:
            check_media(record, caption if isinstance(caption, str) else "")
        except UnusableRecord as problem:
            sample.add("other_media", f"{problem}")
            return
        if not isinstance(caption, str):
            sample.add("no_turns", "it has neither conversations nor a caption")
        elif not caption.strip():
            sample.add("empty_answer", "its caption says nothing")
        elif MARK in caption or len(pictures) != 1:
            sample.add("image_marks", f"a caption is about one picture, without {MARK}; there are {len(pictures)}")
        elif not _is_whole(caption):
            sample.add("half_character", "its caption holds half a character")
        else:
            sample.conversation = about_image(CAPTION_PROMPT, caption.strip())


@dataclass(frozen=True)
class PhotographPiece:
    """Some photographs of a COCO-style folder.

    Args:
        photographs: (name, file, captions) of each.
    """

    folder: Path
    photographs: tuple[tuple[str, Path, tuple[str, ...]], ...]

    def samples(self, reading: Reading) -> Iterator[Sample]:
        """A photograph with all its captions is a sample."""
        for number, (name, file, captions) in enumerate(self.photographs):
            sample = Sample("captions.json", number, id=shown(name))
            sample.pictures = [SamplePicture(name, file, self.folder / "images")]
            sample.conversation = [turn for caption in captions for turn in about_image(CAPTION_PROMPT, caption)]
            yield sample


Piece = ListPiece | ShardPiece | PhotographPiece


def _has_turns(value: dict[str, Any]) -> bool:
    """Whether a shard's object is a record, in any form, and no caption."""
    try:
        record = as_llava(value)
    except UnusableRecord:
        return True
    return any(key in record for key in TURNS)


def _left(rows: Any, name: str) -> list[Finding]:
    samples, members = left_out(rows)
    return [
        *(Finding("entry_left_out", reason, name, count=count) for reason, count in samples.items()),
        *(Finding("extra_left_out", reason, name, count=count) for reason, count in members.items()),
    ]


def _object(pairs: list[tuple[str, Any]], twice: list[str]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                twice.append(key)
            seen.add(key)
    return found


def _is_finite(value: Any) -> bool:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, float) and not math.isfinite(one):
            return False
        if isinstance(one, (dict, list)):
            waiting += one.values() if isinstance(one, dict) else one
    return True


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
