"""What a worker does with a piece: every check on every sample, and what is kept of it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

from pargo_mllm.data.feeding.chat_format import ConversationError
from pargo_mllm.data.frames import Size
from pargo_mllm.data.pictures import PictureError, stored_size
from pargo_mllm.validation import repeats
from pargo_mllm.validation.box_checks import check_boxes, said_size
from pargo_mllm.validation.findings import ERROR, KINDS, Finding
from pargo_mllm.validation.leaks import check_leaks
from pargo_mllm.validation.lengths import lengths_of
from pargo_mllm.validation.picture_checks import Look, links_out, look_at
from pargo_mllm.validation.pieces import Piece, Reading
from pargo_mllm.validation.record_checks import check_texts
from pargo_mllm.validation.samples import Sample, SamplePicture
from pargo_mllm.validation.settings import Settings


@dataclass
class Seen:
    """What was seen in a piece, small enough to be sent.

    Args:
        samples: how many there are; ``usable`` of them training reads.
        unreadable: usable ones whose picture cannot be read, by the kind of the first finding about it.
        answers, characters: of the usable ones.
        forms, images: how records are written, and their images.
        boxes: see :func:`pargo_mllm.validation.box_checks.verdicts`.
        tokens: (samples, their sum, the most).
        records, ids: hashes, uint64 ``[samples, 2]``; zeros for none.
        places, lines: where each begins; -1 where that is not known.
        names: each sample's id as text, None where it has none.
        named, content, looks: with ``near``, of each picture, whose sample ``owners`` says.
        signatures: with ``near``, of each answer, whose sample ``speakers`` says.
        looking, decoding: seconds.
    """

    samples: int = 0
    usable: int = 0
    pictures: int = 0
    answers: int = 0
    characters: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    boxes: Counter[str] = field(default_factory=Counter)
    tokens: tuple[int, int, int] = (0, 0, 0)
    found: list[Finding] = field(default_factory=list)
    records: bytes = b""
    ids: bytes = b""
    places: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    named: bytearray = field(default_factory=bytearray)
    content: bytearray = field(default_factory=bytearray)
    looks: bytearray = field(default_factory=bytearray)
    owners: list[int] = field(default_factory=list)
    signatures: bytearray = field(default_factory=bytearray)
    speakers: list[int] = field(default_factory=list)
    line_ends: int = 0
    ended: bool = False
    looking: float = 0.0
    decoding: float = 0.0


def look(piece: Piece, settings: Settings) -> Seen:
    """Everything about a piece."""
    began = time.perf_counter()
    seen, reading = Seen(), Reading()
    records, ids = bytearray(), bytearray()
    looked = _Looker(settings.decode)
    for sample in piece.samples(reading):
        _look_at_sample(sample, settings, seen, looked)
        seen.samples += 1
        seen.usable += sample.conversation is not None
        said = sample.answers()
        seen.answers += len(said)
        seen.characters += sum(map(len, said))
        records += repeats.record_hash(sample)
        ids += bytes(repeats.SIZE) if sample.id is None else repeats.text_hash(sample.id)
        seen.places.append(-1 if sample.byte is None else sample.byte)
        seen.lines.append(-1 if sample.line is None else sample.line)
        seen.names.append(sample.id)
        seen.found += sample.finish() if sample.found else []
    seen.found += reading.found
    seen.records, seen.ids = bytes(records), bytes(ids)
    seen.line_ends, seen.ended = reading.lines, reading.ended
    seen.decoding = looked.decoding
    seen.looking = time.perf_counter() - began
    return seen


class _Looker:
    """Looks at pictures, at each file once while it is among the last ones."""

    def __init__(self, decode: bool):
        self.decoding = 0.0
        self._decode = decode
        self._look = lru_cache(maxsize=20_000)(self._at)

    def at(self, picture: SamplePicture) -> Look:
        """What is seen of a picture."""
        return self._look(picture)

    def _at(self, picture: SamplePicture) -> Look:
        if not self._decode:
            return look_at(picture, False)
        before = time.perf_counter()
        seen = look_at(picture, True)
        self.decoding += time.perf_counter() - before
        return seen


def _look_at_sample(sample: Sample, settings: Settings, seen: Seen, looker: _Looker) -> None:
    seen.forms[sample.form] += 1
    check_texts(sample)
    if sample.image is not None:
        seen.images[sample.image] += 1
    sizes: list[Size] = []
    unreadable: str | None = None
    for picture in sample.pictures:
        look = looker.at(picture)
        seen.pictures += 1
        for kind, detail in look.found:
            sample.add(kind, detail, picture)
            if KINDS[kind].severity == ERROR:
                unreadable = unreadable or kind
        if look.header is not None:
            sizes.append(look.header.size)
        if picture.is_file and links_out(picture.folder, picture.file):
            sample.add("link_leads_out", picture.name, picture)
    if unreadable is not None and sample.conversation is not None:
        seen.unreadable[unreadable] += 1
    stored = sizes[0] if len(sizes) == len(sample.pictures) == 1 else None
    upright = _upright(sample, stored, settings)
    if sample.record is not None:
        seen.boxes += check_boxes(sample, settings.frame, upright, stored)
    if settings.model is not None and sample.conversation is not None and len(sizes) == len(sample.pictures):
        _measure(sample, sizes, settings, seen)
    if settings.evaluated is not None:
        record = sample.record or {}
        declared = record.get("frame")
        frame = declared if isinstance(declared, str) else settings.frame
        check_leaks(sample, settings.evaluated, frame, said_size(record) or upright)
    if settings.near:
        _remember(sample, seen)


def _upright(sample: Sample, stored: Size | None, settings: Settings) -> Size | None:
    """The size that boxes of a sample count in; EXIF is asked only where they are declared to be of the picture."""
    record = sample.record or {}
    if stored is None or "width" in record or not ("frame" in record or settings.frame):
        return stored
    picture = sample.pictures[0]
    if picture.place is not None:
        return stored
    try:
        source = picture.file if picture.content is None else picture.content
        (width, height), turn = stored_size(source, picture.name)
    except PictureError:
        return stored
    return (height, width) if turn >= 5 else (width, height)


def _measure(sample: Sample, sizes: list[Size], settings: Settings, seen: Seen) -> None:
    assert settings.model is not None
    assert sample.conversation is not None
    lengths = lengths_of(settings.model, settings.template)
    try:
        tokens = lengths.of(sample.conversation, sizes)
    except ConversationError as error:
        sample.add("not_encodable", f"{error}")
        return
    count, total, most = seen.tokens
    seen.tokens = (count + 1, total + tokens, max(most, tokens))
    limit = settings.max_length or lengths.positions
    if limit is not None and tokens > limit:
        sample.add("too_long", f"{tokens:,} tokens, and at most {limit:,} are trained on")


def _remember(sample: Sample, seen: Seen) -> None:
    looks, signature = repeats.near_hashes(sample)
    for named, content, look in looks:
        if look:
            seen.named += named
            seen.content += content
            seen.looks += look
            seen.owners.append(sample.number)
    if signature is not None:
        seen.signatures += signature.tobytes()
        seen.speakers.append(sample.number)
