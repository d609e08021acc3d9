"""Records are scored in pieces of a fixed size, by whoever comes; what one piece says depends on nothing else."""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.feeding.encoding import RECORD
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.filtering.models import MATCH, Opened, Scorer, SimilarityModelError, open_scorer
from pargo_mllm.filtering.records import Record, Records, name_of, open_records
from pargo_mllm.filtering.scores import Identity, Scored, join, write_piece
from pargo_mllm.filtering.sentences import Span, sentence_spans
from pargo_mllm.jobs import Engine

# records of a piece, and those of them whose pictures are held at a time
PER_PIECE, BLOCK = 512, 64
# a text of more is nobody's caption
MOST_SENTENCES = 512
# of a block, where every pair costs the model a reading
OTHERS_THAT_COST = 16
# why a record has no score
UNREADABLE = "pictures that are missing or cannot be read"
DAMAGED = RECORD
NO_PICTURE = "records without a picture"
SEVERAL = "records with several pictures"
NARROW = "pictures more than 100 times as long as wide"
SILENT = "answers without a sentence"
_NARROWEST = 100
LONG = f"answers of more than {MOST_SENTENCES} sentences"


@dataclass(frozen=True)
class Job:
    """What a worker must know to score records with a model.

    Args:
        data, image_root: see :func:`pargo_mllm.filtering.records.open_records`.
        batch: see :class:`pargo_mllm.filtering.models.Scorer`.
        work: a folder for its pieces.
    """

    data: str
    image_root: Path | None
    opened: Opened
    identity: Identity
    device: str
    batch: int
    work: Path


@dataclass(frozen=True)
class Piece:
    """Records ``start`` to ``stop`` of a job, its piece ``number``."""

    job: Job
    number: int
    start: int
    stop: int

    @property
    def file(self) -> Path:
        """What it writes."""
        return self.job.work / f"{self.number:06d}.parquet"


def score(
    job: Job, count: int, engine: Engine, file: Path, about: dict[str, Any], watch: Callable[[Sequence[Path]], None]
) -> None:
    """Write the scores of a job's records into a file. What a killed run did is kept.

    Args:
        count: of the records.
        about: what the file says beside whose scores it holds.
        watch: is shown the pieces that are done, in their order, each time that there is one more; what it raises ends it.
    """
    job.work.mkdir(parents=True, exist_ok=True)
    starts = range(0, count, PER_PIECE)
    pieces = [Piece(job, number, start, min(start + PER_PIECE, count)) for number, start in enumerate(starts)]
    done: list[Path] = []
    for piece in engine.map(score_piece, pieces, f"scoring with {file.stem.removeprefix('scores-')}"):
        done.append(piece)
        watch(done)
    join(done, file, {"identity": asdict(job.identity), **about})


def score_piece(piece: Piece) -> Path:
    """Write a piece's scores, unless they are there."""
    if piece.file.exists():
        return piece.file
    job = piece.job
    records = _records(job.data, job.image_root, job.identity.data)
    with _alone(job.device), torch.inference_mode():
        scorer = _scorer(job.opened, job.identity, job.device, job.batch, job.work)
        rows: list[Scored] = []
        for start in range(piece.start, piece.stop, BLOCK):
            rows += score_block([records[n] for n in range(start, min(start + BLOCK, piece.stop))], scorer, job)
    write_piece(rows, scorer.scale(), piece.file)
    return piece.file


def score_block(records: Sequence[Record], scorer: Scorer, job: Job) -> list[Scored]:
    """The scores of some records, whose pictures are looked at once each."""
    pictures = _Pictures(scorer)
    rows: dict[int, Scored] = {}
    spans: dict[int, list[Span]] = {}
    for n, record in enumerate(records):
        found = sentence_spans(record.text, job.identity.language)
        reason, detail = _unjudged(record, found), record.damage
        if reason is None:
            reason, detail = pictures.open(record)
        if reason is None:
            spans[n] = found
        else:
            rows[n] = Scored(record.id, name_of(record), unjudged=reason, detail=detail)
    if not spans:
        return [rows[n] for n in range(len(records))]
    texts: list[str] = []
    of: dict[int, range] = {}
    for n, found in spans.items():
        of[n] = range(len(texts), len(texts) + len(found))
        texts += [records[n].text[start:end] for start, end in found]
    others = _others(list(spans), pictures, records)
    if job.opened.measure == MATCH:
        others = dict(list(others.items())[:: -(-len(others) // OTHERS_THAT_COST) or 1])
    pairs = [(pictures.number(records[n]), text) for n in spans for text in of[n]]
    beside = [(pictures.number(records[other]), text) for n, other in others.items() for text in of[n]]
    tokens = scorer.tokens(texts)
    values = scorer.compare(scorer.look(pictures.seen), scorer.read(tokens), pairs + beside)
    if not np.isfinite(values).all():
        raise SimilarityModelError(f"{job.opened.folder} gives scores that are no numbers (dtype {job.identity.dtype}).")
    own, rest = values[: len(pairs)].tolist(), iter(values[len(pairs) :].tolist())
    for n, found in spans.items():
        told = [(*span, own[text], tokens.cut[text]) for span, text in zip(found, of[n], strict=True)]
        other = [next(rest) for _ in found] if n in others else []
        rows[n] = Scored(records[n].id, name_of(records[n]), told, other=other)
    return [rows[n] for n in range(len(records))]


class _Pictures:
    """Those of a block, each opened once, with what tells whether two are the same."""

    def __init__(self, scorer: Scorer):
        self._scorer = scorer
        self.seen: list[dict[str, torch.Tensor]] = []
        self.digests: list[bytes] = []
        self._opened: dict[tuple[str, ...], int | tuple[str, str]] = {}

    def open(self, record: Record) -> tuple[str | None, str | None]:
        """Why a record's picture cannot be judged, and what is wrong with it; None for a good one."""
        if record.pictures not in self._opened:
            try:
                assert record.open is not None
                picture = record.open()
            except PictureError as error:
                self._opened[record.pictures] = UNREADABLE, str(error)
            else:
                self._opened[record.pictures] = self._see(picture)
        opened = self._opened[record.pictures]
        return opened if isinstance(opened, tuple) else (None, None)

    def number(self, record: Record) -> int:
        """Where a record's good picture is among those that were seen."""
        number = self._opened[record.pictures]
        assert isinstance(number, int)
        return number

    def _see(self, picture: Image.Image) -> int | tuple[str, str]:
        # the shorter side becomes the model's, and the other one grows with it
        if max(picture.size) > _NARROWEST * min(picture.size):
            return NARROW, f"it has {picture.width} x {picture.height} pixels"
        self.seen.append(self._scorer.see(picture))
        self.digests.append(hashlib.sha256(b"%d %d " % picture.size + picture.tobytes()).digest())
        return len(self.seen) - 1


def _unjudged(record: Record, spans: Sequence[Any]) -> str | None:
    if record.damage is not None:
        return DAMAGED
    if len(record.pictures) != 1:
        return SEVERAL if record.pictures else NO_PICTURE
    if not spans:
        return SILENT
    return LONG if len(spans) > MOST_SENTENCES else None


def _others(judged: Sequence[int], pictures: _Pictures, records: Sequence[Record]) -> dict[int, int]:
    """Of each record, another one that shows another picture and says something else, half a block away where it can be."""
    found = {}
    for place, n in enumerate(judged):
        own = pictures.digests[pictures.number(records[n])]
        for step in range(len(judged)):
            other = judged[(place + len(judged) // 2 + step) % len(judged)]
            if pictures.digests[pictures.number(records[other])] != own and records[other].text != records[n].text:
                found[n] = other
                break
    return found


@lru_cache(maxsize=1)
def _records(data: str, image_root: Path | None, content: str) -> Records:
    records = open_records(data, image_root)
    if records.content != content:
        raise CorpusError(f"{data} has changed since it was opened; start again.")
    return records


# of the identity, and of the folder of this job's pieces, for another model may lie where this one lay
@lru_cache(maxsize=1)
def _scorer(opened: Opened, identity: Identity, device: str, batch: int, work: Path) -> Scorer:
    if device == "cuda":
        device = f"cuda:{_claimed(work)}"
    return open_scorer(opened, identity.dtype, device, batch)


def _claimed(work: Path) -> int:
    """A GPU of this machine that no other worker of the job has, if there is one; it is this process's until it ends."""
    count = torch.cuda.device_count()
    for number in range(count):
        lock = os.open(work / f"{socket.gethostname()}-gpu{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return number
        except OSError:
            os.close(lock)
    return os.getpid() % count


@contextmanager
def _alone(device: str) -> Iterator[None]:
    """On the CPU one thread a worker: sums are the same with any number of workers, which are as many as there are cores."""
    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
