"""A preparation from beginning to end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pargo_mllm.data.corpus import counted
from pargo_mllm.data.fetching import Address, is_public
from pargo_mllm.data.preparation.data_set import DataSet, Options, PreparationError
from pargo_mllm.data.preparation.finishing import finish
from pargo_mllm.data.preparation.official_files import OfficialFiles
from pargo_mllm.data.preparation.pieces import NONE, PLANNED, Counts, Piece, Plan, plan
from pargo_mllm.data.sources.llava import LIST
from pargo_mllm.data.sources.shards import ABOUT
from pargo_mllm.errors import UserError
from pargo_mllm.files import sync, whole_file, write_whole
from pargo_mllm.jobs import Engine, WorkFolder

# of :file:`about.json`; another number for another meaning
FORMAT = 1
JOB = "prepare"
# entries that a worker takes at a time where no shard says otherwise
PER_PIECE = 2000


@dataclass(frozen=True)
class Form:
    """How it is written.

    Args:
        per_shard: records of a shard, at most; None for a list with pictures beside it.
        copy: copy pictures even where hard links can be made, which take no room.
        fetch: download pictures of which only an address is known.
    """

    per_shard: int | None = None
    copy: bool = False
    fetch: bool = False


def prepare(
    data_set: DataSet,
    source: Path,
    out: Path,
    options: Options,
    form: Form,
    engine: Engine,
    may_connect: Callable[[Address], bool] = is_public,
) -> dict[str, Any]:
    """Make ``out`` of the official files in ``source``. What a killed run did is kept, and gone on with.

    Args:
        may_connect: from which machines pictures are downloaded; see :func:`pargo_mllm.data.fetching.fetch`.

    Returns:
        What :file:`about.json` says.

    Raises:
        UserError: for files that are missing or damaged, for a folder that holds something else or cannot be written, and
            where nothing comes of any entry.
    """
    files = OfficialFiles(source, data_set.needs)
    _check(out, source)
    settings = {"set": data_set.name, "options": asdict(options), "form": asdict(form), "source": str(source.resolve())}
    work_folder = WorkFolder(out, JOB, settings)
    try:
        with work_folder.held() as work:
            # killed when all was done but this
            if not (out / ABOUT).exists():
                _make(data_set, files, work, out, options, form, engine, may_connect)
            about = json.loads((out / ABOUT).read_text(encoding="utf-8"))
            work_folder.remove()
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise PreparationError(
            f"{out} cannot be made: {error.strerror or error}{where}. What was done is kept: run the same command again."
        ) from error
    return about


def _check(out: Path, source: Path) -> None:
    """Refuse a folder that something else is in, or that lies among the official files."""
    if out.resolve() == source.resolve() or source.resolve() in out.resolve().parents:
        raise PreparationError(f"--out {out} lies in --src {source}, in which nothing is changed; give another folder.")
    if WorkFolder.is_begun(out, JOB):
        return
    if (out / ABOUT).exists():
        raise PreparationError(f"{out} is prepared already ({ABOUT} stands in it); remove it to make it anew.")
    if out.is_dir():
        raise PreparationError(f"{out} holds something else; give an absent or empty folder.")


def _make(
    data_set: DataSet,
    files: OfficialFiles,
    work: Path,
    out: Path,
    options: Options,
    form: Form,
    engine: Engine,
    may_connect: Callable[[Address], bool],
) -> None:
    is_begun = (work / PLANNED).exists()
    try:
        entries = data_set.entries(files, options)
        planned = plan(entries, files, work, form.per_shard or PER_PIECE, f"reading {data_set.name}")
    except UserError:
        # with another --src it may be read
        if not is_begun:
            _leave(out, [])
        raise
    pieces = [
        Piece(
            number,
            work,
            files.root,
            out,
            form.per_shard is not None,
            form.copy,
            form.fetch,
            may_connect,
            tuple(planned.clashing.get(str(number), ())),
            tuple(planned.repeated.get(str(number), ())),
        )
        for number in range(planned.pieces)
    ]
    counts = sum(engine.map(finish, pieces, f"preparing {data_set.name}"), start=NONE)
    if not counts.records:
        _leave(out, pieces)
        raise PreparationError(f"of {counts.entries:,} entries of {files.root} none can be a record{counted(counts.skipped)}.")
    if form.per_shard is None:
        join(pieces, out / LIST)
    sync(out)
    about = _about(data_set, options, form, counts, planned)
    write_whole(out / ABOUT, json.dumps(about, indent=2, ensure_ascii=False))


def _leave(out: Path, pieces: list[Piece]) -> None:
    """Leave nothing behind of what came to nothing: with other options something may come of it."""
    for piece in pieces:
        piece.records.unlink(missing_ok=True)
    shutil.rmtree(out / ".work", ignore_errors=True)
    # it may be the user's
    with suppress(OSError):
        out.rmdir()


def join(pieces: list[Piece], file: Path) -> None:
    """All pieces' records as one list, a record a line."""
    with whole_file(file) as aside, open(aside, "wb") as joined:
        joined.write(b"[")
        before = b"\n"
        for piece in pieces:
            with open(piece.records, "rb") as lines:
                for line in lines:
                    joined.write(before + line.rstrip(b"\n"))
                    before = b",\n"
        joined.write(b"\n]\n")


def _about(data_set: DataSet, options: Options, form: Form, counts: Counts, planned: Plan) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "set": data_set.name,
        "title": data_set.title,
        "kind": data_set.kind,
        "licence": data_set.licence,
        "home": list(dict.fromkeys(need.home for need in data_set.needs)),
        "weight": data_set.weight,
        "split": options.split or data_set.splits[0],
        "seed": options.seed,
        "frame": options.frame if data_set.has_boxes else None,
        # a copy of the files is as good
        "made_of": [{key: value for key, value in source.items() if key != "time"} for source in planned.sources],
        "records_in": "shards" if form.per_shard else LIST,
        "entries": counts.entries,
        "records": counts.records,
        "skipped": dict(sorted(counts.skipped.items())),
        "mean_characters": round(counts.characters / counts.answers, 2) if counts.answers else None,
    }
