"""The folder of captions that is being made: what is known of every picture, and the records in the end."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from pargo_mllm.captioning.captions.asked import Asked, CaptionError
from pargo_mllm.captioning.captions.batch_files import NOT_TAKEN
from pargo_mllm.captioning.captions.checked import checked
from pargo_mllm.captioning.captions.finding import Found
from pargo_mllm.captioning.captions.looking import Seen, Unusable, look, looked_at
from pargo_mllm.data.preparation.data_set import DETAILED
from pargo_mllm.data.preparation.entries import Entry, Skipped, to_line, turns
from pargo_mllm.data.preparation.finishing import UNREADABLE, finish
from pargo_mllm.data.preparation.pieces import NONE, Counts, Piece, plan
from pargo_mllm.data.preparation.run import FORMAT, LIST, join
from pargo_mllm.data.sources.llava_records import MARK
from pargo_mllm.data.sources.photographs_folder import CAPTION_PROMPT
from pargo_mllm.data.sources.shards import ABOUT
from pargo_mllm.endpoint import Answer, Failure
from pargo_mllm.endpoint.kept import KeptAnswers
from pargo_mllm.endpoint.usage import NOTHING, Usage
from pargo_mllm.files import sync, whole_file, write_whole
from pargo_mllm.jobs import Engine, WorkFolder

FAILURES, ASKED = "failures.jsonl", "asked.json"
JOB = "caption"
PER_PIECE = 500
NOT_ASKED = "pictures that were not asked about yet"
WITH_MARK = f"captions that hold {MARK}, where nothing but a picture may stand"
IN_A_BATCH = "pictures in a batch whose results were not read yet"
# failures of the model, which are kept
PAID_FOR = ("length", "content_filter", "refusal", "empty", "damaged", "mark")
# of failures by their kind
REASONS = {
    "length": "captions that were cut off",
    "content_filter": "captions that a content filter stopped",
    "refusal": "captions that the model refused",
    "empty": "captions that say nothing",
    "damaged": "captions with characters that are none",
    "mark": WITH_MARK,
    NOT_TAKEN: "requests that a batch did not take",
    "not taken": "requests that the endpoint did not take",
    "given up": "requests that were given up",
    "picture": UNREADABLE,
    "batch": IN_A_BATCH,
}


@dataclass(frozen=True)
class Known:
    """A picture of the job, and what there is of its caption."""

    piece: Piece
    entry: Entry
    seen: Seen
    key: str


class Job:
    """One folder of captions, while this process alone works on it.

    Args:
        out: the folder.
        found: the pictures.
        asked: the question.
        copy: copy pictures even where hard links can be made.
    """

    def __init__(self, out: Path, found: Found, asked: Asked, images: Path, copy: bool = False):
        self.out, self.found, self.asked, self.copy = out, found, asked, copy
        source = found.files.root.resolve()
        if images.is_dir() and source in (out.resolve(), *out.resolve().parents):
            raise CaptionError(f"--out {out} lies among the pictures in {source}; give a folder outside.")
        is_begun = WorkFolder.is_begun(out, JOB)
        if (out / ABOUT).exists() and not is_begun:
            raise CaptionError(f"{out} is finished ({ABOUT} stands in it); remove it to make it anew.")
        if out.is_dir() and not is_begun:
            raise CaptionError(f"{out} holds something else; give an absent or empty folder.")
        status = images.stat()
        version = None if images.is_dir() else [status.st_size, status.st_mtime_ns]
        begun_with = {"images": str(images.resolve()), "version": version, "source": str(source), "copy": copy}
        self.work_folder = WorkFolder(out, JOB, {**asked.settings(), **begun_with})
        self.pieces: list[Piece] = []

    @contextmanager
    def begun(self, engine: Engine) -> Iterator[Job]:
        """Plan and look at the pictures, or go on; while the block lasts, no other process has the folder.

        Raises:
            UserError: if another process has it, it was begun with other settings, or there is no picture.
        """
        try:
            with self.work_folder.held() as work:
                planned = plan(self.found.entries(), self.found.files, work, PER_PIECE, "finding pictures")
                self.pieces = [self._piece(number, work, planned.clashing) for number in range(planned.pieces)]
                if not sum(engine.map(look, self.pieces, "looking at pictures")):
                    raise CaptionError(f"{self.found.files.root} holds no picture.")
                yield self
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise CaptionError(
                f"{self.out} cannot be made: {error.strerror or error}{where}. What was done is kept: run the same command "
                "again."
            ) from error

    @property
    def work(self) -> Path:
        """The folder of what is kept until all is done."""
        return self.work_folder.path

    def pictures(self) -> Iterator[Known]:
        """All that can be asked about, in the order of the plan."""
        for piece in self.pieces:
            for entry, seen in looked_at(piece):
                if isinstance(seen, Seen):
                    assert isinstance(entry, Entry)
                    yield Known(piece, entry, seen, self.asked.key(seen.digest))

    def write(self, engine: Engine, said: list[Path], about: dict[str, Any]) -> dict[str, Any]:
        """Write records, failures and what is to be said about them, of all that is known by now.

        Args:
            said: files of kept answers and failures; the first that knows a picture counts. One whose name holds ``{piece}`` is
                there for each piece.
            about: what else :file:`about.json` says.

        Returns:
            What it says.
        """
        work = self.work / "answered"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        pieces = [replace(piece, work=work, clashing=()) for piece in self.pieces]
        usage = NOTHING
        with whole_file(self.out / FAILURES) as aside, open(aside, "w", encoding="utf-8") as failures:
            for before, piece in zip(tqdm(self.pieces, desc="joining", delay=2, unit="piece"), pieces, strict=True):
                kept = [KeptAnswers(Path(str(file).format(piece=f"{piece.number:06d}"))) for file in said]
                entries = []
                for entry, seen in looked_at(before):
                    answered, detail, took = self._answered(entry, seen, kept)
                    usage += took
                    if isinstance(answered, Skipped):
                        told = {"id": answered.id, "reason": answered.reason, "detail": detail}
                        failures.write(json.dumps(told, ensure_ascii=False) + "\n")
                    entries.append(to_line(answered))
                for one in kept:
                    one.close()
                piece.plan.write_text("\n".join(entries), encoding="utf-8")
        counts = sum(engine.map(finish, pieces, "writing records"), start=NONE)
        join(pieces, self.out / LIST)
        told = {**self._about(counts, usage), **about}
        sync(self.out)
        write_whole(self.out / ABOUT, json.dumps(told, indent=2, ensure_ascii=False))
        shutil.rmtree(work, ignore_errors=True)
        return told

    def end(self) -> None:
        """All is done: nothing is kept for another run. Of what failed, another run may get some."""
        self.work_folder.remove()

    def _piece(self, number: int, work: Path, clashing: dict[str, list[int]]) -> Piece:
        root = self.found.files.root
        return Piece(number, work, root, self.out, False, self.copy, clashing=tuple(clashing.get(str(number), ())))

    def _answered(
        self, entry: Entry | Skipped, seen: Seen | Unusable, kept: list[KeptAnswers]
    ) -> tuple[Entry | Skipped, str, Usage]:
        """An entry with its caption, or why it has none, in general and in particular; and what that took."""
        if isinstance(seen, Unusable):
            return Skipped(entry.id, seen.reason), seen.detail, NOTHING
        assert isinstance(entry, Entry)
        assert entry.picture is not None
        said = said_of(self.asked.key(seen.digest), kept)
        if isinstance(said, Answer):
            conversations = turns([(CAPTION_PROMPT, said.text.strip())])
            picture = replace(entry.picture, name=seen.fitting(entry.picture.name))
            return replace(entry, picture=picture, conversations=conversations), "", said.usage or NOTHING
        if said is None:
            return Skipped(entry.id, NOT_ASKED), "", NOTHING
        return Skipped(entry.id, REASONS[said.kind]), said.reason, said.usage or NOTHING

    def _about(self, counts: Counts, usage: Usage) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "set": "captions",
            "title": f"Captions by {self.asked.model}",
            "kind": DETAILED,
            "licence": f"of the pictures, their owners'; of the captions, as the terms of {self.asked.model} say",
            "model": self.asked.model,
            "prompt": self.asked.prompt,
            "parameters": dict(self.asked.parameters),
            "detail": self.asked.detail,
            "max_side": self.asked.max_side,
            "records_in": LIST,
            "entries": counts.entries,
            "records": counts.records,
            "skipped": dict(sorted(counts.skipped.items())),
            "mean_characters": round(counts.characters / counts.answers, 2) if counts.answers else None,
            "tokens": {"input": usage.input, "output": usage.output, "cached": usage.cached},
        }


def said_of(key: str, kept: list[KeptAnswers]) -> Answer | Failure | None:
    """What is kept of a picture: an answer before a failure."""
    for file in kept:
        if answer := file.get(key):
            return checked(answer)
    return next((failure for file in kept if (failure := file.failure(key))), None)


def told(about: dict[str, Any], out: Path) -> str:
    """What a person reads in the end."""
    lines = [f"of {about['entries']:,} entries {about['records']:,} have a caption, in {out}"]
    lines += [f"without: {count:,} {reason}" for reason, count in about["skipped"].items()]
    if about["mean_characters"] is not None:
        lines.append(f"{about['mean_characters']:.1f} characters a caption on average")
    return "\n".join(lines)


def remaining(about: dict[str, Any]) -> int:
    """How many pictures another run may get a caption of."""
    return sum(_left(about).values())


def how_on(about: dict[str, Any]) -> str:
    """What a person may do about pictures without a caption; empty where nothing helps."""
    left = _left(about)
    failed = sum(count for reason, count in left.items() if reason in {REASONS[kind] for kind in (*PAID_FOR, NOT_TAKEN)})
    lines = [f"{failed:,} pictures are asked about again with --retry-failed"] if failed else []
    if waiting := left[IN_A_BATCH]:
        lines.append(f"{waiting:,} pictures lie in batches: --batch read takes their results")
    if rest := left.total() - failed - waiting:
        lines.append(f"{rest:,} pictures may still get a caption: run the same command again")
    return "\n".join(lines)


def _left(about: dict[str, Any]) -> Counter[str]:
    again = {NOT_ASKED, *(reason for kind, reason in REASONS.items() if kind != "picture")}
    return Counter({reason: count for reason, count in about["skipped"].items() if reason in again})
