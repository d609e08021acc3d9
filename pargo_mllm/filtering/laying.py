"""What is kept, laid as a preparation lays it, and what is not, with the reason of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from pargo_mllm.data.corpus import shown
from pargo_mllm.data.preparation.laying import lay
from pargo_mllm.data.preparation.run import LIST
from pargo_mllm.data.sources.shards import ABOUT
from pargo_mllm.files import sync, write_whole
from pargo_mllm.filtering.choosing import Choice
from pargo_mllm.filtering.laid import Laid
from pargo_mllm.filtering.records import ListRecords, Records, ShardRecords
from pargo_mllm.filtering.scores import Scores, rows_of

IMAGES, DROPPED = "images", "dropped.jsonl"


@contextmanager
def replaced(laid: Laid, work: Path) -> Iterator[Path]:
    """A folder to lay a choice in; it takes the place of the one before, file by file. ``about.json`` is there while they are
    whole, and only then.
    """
    aside = emptied(work / "kept")
    yield aside
    laid.replace(aside, alone=True)


def emptied(folder: Path) -> Path:
    """A folder in which nothing lies, whatever an attempt that was killed left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def lay_kept(records: Records, choice: Choice, folder: Path, copy: bool, laid: Laid) -> dict[int, str]:
    """A list with its pictures; or shards, those that keep a sample.

    Returns:
        Of the chosen records that cannot be kept, which picture is gone.
    """
    if isinstance(records, ShardRecords):
        for name, numbers in tqdm(records.parts(), desc="keeping", unit="shard", delay=1, dynamic_ncols=True):
            kept = [number for number in numbers if choice.kept[number]]
            if kept:
                records.write(kept, folder / name)
                sync(folder / name)
        return {}
    assert isinstance(records, ListRecords)
    lost: dict[int, str] = {}
    with open(folder / LIST, "wb") as file:
        before = b"[\n"
        for number in tqdm(range(len(records)), desc="keeping", unit="record", delay=1, dynamic_ncols=True):
            if not choice.kept[number]:
                continue
            pictures = [(name, _there(content, name, laid)) for name, content in records.contents(number)]
            gone = next((name for name, content in pictures if content is None), None)
            if gone is not None:
                lost[number] = f"{shown(gone)} is not there"
                continue
            for name, content in pictures:
                assert content is not None
                lay(content, folder / IMAGES / name, folder.with_name("picture"), copy)
            file.write(before + records.line(number))
            before = b",\n"
        file.write(b"\n]\n" if before == b",\n" else b"[]\n")
    sync(folder / LIST)
    return lost


def _there(content: Path | bytes, name: str, laid: Laid) -> Path | bytes | None:
    """A picture, or what an earlier choice has of it; None where it is gone."""
    try:
        if isinstance(content, bytes) or content.is_file():
            return content
    # a name that no file can have
    except (OSError, ValueError):
        return None
    return laid.out / IMAGES / name if laid.is_ours(f"{IMAGES}/{name}") else None


def write_dropped(
    records: Records, scores: Mapping[str, Scores], choice: Choice, lost: Mapping[int, str], by: str, file: Path
) -> None:
    """A line for each record that is dropped: why, and of each model below whose threshold it is, the sentence that fits
    least. In front of them, those that are no usable record.
    """
    columns = [(name, rows_of(scored.file)) for name, scored in scores.items()]
    with open(file, "w", encoding="utf-8") as lines:
        for left in records.left_out():
            lines.write(json.dumps(left) + "\n")
        for number, reason in enumerate(choice.reasons):
            rows = {name: next(rows) for name, rows in columns}
            if reason is None:
                continue
            row = next(iter(rows.values()))
            told: dict[str, Any] = {"number": number, "id": row["id"], "picture": row["picture"], "why": reason}
            if row["detail"] is not None:
                told["detail"] = row["detail"]
            if number in lost:
                told["detail"] = lost[number]
            elif row["unjudged"] is None:
                text = records[number].text
                told["by"] = [
                    {"model": name, **_least(rows[name], text, by), "threshold": choice.thresholds[name]}
                    for name in scores
                    if choice.below[name][number]
                ]
            lines.write(json.dumps(told) + "\n")
    sync(file)


def _least(row: Mapping[str, Any], text: str, by: str) -> dict[str, Any]:
    sentence = min(row["sentences"], key=lambda told: told["score"])
    return {
        "score": row[by],
        "by": by,
        "sentence": text[sentence["start"] : sentence["end"]],
        "sentence_score": sentence["score"],
        "cut": sentence["cut"],
    }


def write_about(out: Path, about: Mapping[str, Any]) -> None:
    """Say what was kept; it is whole from here on."""
    write_whole(out / ABOUT, json.dumps(about, indent=2, ensure_ascii=False))
