"""A preparation from beginning to end."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pargo_mllm.data.preparation.data_set import DataSet, Options, PreparationError
from pargo_mllm.data.preparation.finishing import finish
from pargo_mllm.data.preparation.official_files import OfficialFiles
from pargo_mllm.data.preparation.pieces import NONE, Counts, Piece, plan
from pargo_mllm.data.sources.shards import ABOUT
from pargo_mllm.files import file_digest, sync, whole_file, write_whole
from pargo_mllm.jobs import Engine, WorkFolder

LIST = "data.json"
# of :file:`about.json`; another number for another meaning
FORMAT = 1
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


def prepare(data_set: DataSet, source: Path, out: Path, options: Options, form: Form, engine: Engine) -> dict[str, Any]:
    """Make ``out`` of the official files in ``source``. What a killed run did is kept, and gone on with.

    Returns:
        What :file:`about.json` says.

    Raises:
        UserError: for files that are missing or damaged, and for a folder that holds something else.
    """
    files = OfficialFiles(source)
    settings = {"set": data_set.name, "options": asdict(options), "form": asdict(form), "source": str(source.resolve())}
    about_file = out / ABOUT
    if about_file.exists():
        raise PreparationError(f"{out} is prepared already ({ABOUT} stands in it); remove it to make it anew.")
    if out.is_dir() and any(file.name != ".work" for file in out.iterdir()) and not (out / ".work").is_dir():
        raise PreparationError(f"{out} holds something else; give an absent or empty folder.")
    work_folder = WorkFolder(out, settings)
    with work_folder.held() as work:
        entries = data_set.entries(files, options)
        number = plan(entries, work, form.per_shard or PER_PIECE, f"reading {data_set.name}")
        _note(files, work / "sources.json")
        pieces = [Piece(index, work, source, out, form.per_shard is not None, form.copy, form.fetch) for index in range(number)]
        counts = sum(engine.map(finish, pieces, f"preparing {data_set.name}"), start=NONE)
        about = _about(data_set, options, form, counts, json.loads((work / "sources.json").read_text()))
        if form.per_shard is None:
            _join(pieces, out / LIST)
        sync(out)
        write_whole(about_file, json.dumps(about, indent=2, ensure_ascii=False))
        work_folder.remove()
    return about


def _note(files: OfficialFiles, file: Path) -> None:
    """Which files were read; once, when all of them were."""
    if not file.exists():
        made_of = [
            {"name": name, "bytes": size, "sha256": file_digest(files.root / name)}
            for name, (size, _) in sorted(files.read.items())
        ]
        write_whole(file, json.dumps(made_of))


def _join(pieces: list[Piece], file: Path) -> None:
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


def _about(data_set: DataSet, options: Options, form: Form, counts: Counts, made_of: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "set": data_set.name,
        "title": data_set.title,
        "kind": data_set.kind,
        "licence": data_set.licence,
        "home": [need.home for need in data_set.needs],
        "weight": data_set.weight,
        "split": options.split or data_set.splits[0],
        "seed": options.seed,
        "frame": options.frame if data_set.has_boxes else None,
        "made_of": made_of,
        "records_in": "shards" if form.per_shard else LIST,
        "entries": counts.entries,
        "records": counts.records,
        "skipped": dict(sorted(counts.skipped.items())),
        "mean_characters": round(counts.characters / counts.answers, 2) if counts.answers else None,
    }
