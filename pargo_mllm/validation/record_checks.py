"""What can be wrong with a record as it stands: keys, id, images' names, turns."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from pargo_mllm.data.corpus import shown
from pargo_mllm.data.pictures import PictureError, content_of_url
from pargo_mllm.data.sources import llava_records
from pargo_mllm.data.sources.llava import DATA
from pargo_mllm.data.sources.llava_records import MARK, TURNS, UnusableRecord, picture_names, record_messages
from pargo_mllm.data.sources.opening import leads_inside, named_file
from pargo_mllm.data.sources.record_forms import as_llava
from pargo_mllm.validation.samples import Sample, SamplePicture, texts, turns_of

_REASONS: Mapping[str, str] = {
    llava_records.NO_TURNS: "no_turns",
    llava_records.NO_TEXT: "no_turns",
    llava_records.HALF: "half_character",
    llava_records.ID: "id_wrong",
    llava_records.NO_NAMES: "image_type",
    llava_records.BOTH: "image_both",
    llava_records.MANY: "too_many_pictures",
    llava_records.VIDEO: "other_media",
    llava_records.MARKS: "image_marks",
    llava_records.UNKNOWN: "role_unknown",
    llava_records.ORDER: "role_order",
    llava_records.SYSTEM: "system_picture",
    llava_records.OPEN: "no_answer",
}
# keys that mean something, in this form or in that of another trainer, by what holds them
_LISTS = (*TURNS, "conversation", "messages", "texts")
_PAIRS = ("query", "instruction")
_OF_RECORDS = (
    *("id", "image", "images", "conversations", "conversation", "messages", "texts", "frame", "width", "height", "system"),
    *("query", "response", "instruction", "input", "output", "history", "objects"),
)
_OF_TURNS = ("from", "value", "role", "content", "user", "assistant")
# what records often say of themselves: known, and not read
_SAID_BESIDE = (
    "source",
    "dataset",
    "task",
    "type",
    "model",
    "caption",
    "text",
    "category",
    "url",
    "metadata",
    "split",
    "weight",
)
# keys of other trainers and of media, which something else speaks of
_ELSEWHERE = ("video", "videos", "audio", "audios", "speech", "sound", "tools", "chosen", "rejected", "question_id")
_ALIKE = 0.75
# but for line ends and tabs
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# of names in a detail
_FEW = 5


def check_texts(sample: Sample) -> None:
    """Note what reads as text and is probably none, in a conversation that training reads."""
    for message in sample.conversation or ():
        said = texts(message["content"])
        found = _CONTROL.search(said)
        if found:
            sample.add("control_character", f"{message['role']} turn: {shown(said[max(0, found.start() - 20) :], 60)!r}")
        shows = MARK in said or any(part["type"] != "text" for part in message["content"] if isinstance(part, dict))
        if message["role"] == "assistant" and shows:
            sample.add("image_in_answer", shown(said, 80))


def check_record(value: Any, sample: Sample, folder: Path, root: str | None, beside: int | None = None) -> None:
    """Note what is wrong with a record, and give the sample its conversation and pictures.

    Args:
        folder: that pictures are named from.
        root: where absolute names may lead, as an absolute path; nowhere when None.
        beside: in a shard, how many pictures stand beside the record: what it names itself is nothing, and its key is its id.
    """
    if not isinstance(value, dict):
        sample.add("not_an_object", f"it is {_kind(value)}")
        return
    sample.form = _form(value)
    if beside is None and isinstance(value.get("id"), (str, int)):
        sample.id = shown(str(value["id"]), 80)
    for kind, detail in _keys(tuple(value), tuple(dict.fromkeys(map(tuple, turns_of(value))))):
        sample.add(kind, detail)
    if beside is None:
        _check_written(value, sample)
    try:
        record = as_llava(value)
    except UnusableRecord as problem:
        sample.add(_REASONS.get(problem.reason, "unusable"), f"{problem}")
        return
    if not isinstance(record, dict):
        sample.add("not_an_object", f"it is {_kind(record)}")
        return
    sample.record = record
    if beside is not None:
        sample.conversation = _check_turns(record, sample, beside)
        return
    is_usable = _check_id(record, sample)
    names = _check_names(record, sample, folder, root)
    conversation = _check_turns(record, sample, None if names is None else len(names))
    if is_usable and names is not None and len(sample.pictures) == len(names):
        sample.conversation = conversation


def _form(value: dict[str, Any]) -> str:
    """What a form is called: by its turns, and by how they are written."""
    for key in _LISTS:
        turns = value.get(key)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            written = next((one for one in ("from", "role", "user") if one in turns[0]), "other turns")
            return f"{'conversations' if key in TURNS else key} of {written}"
    return next((key for key in _PAIRS if key in value), "other")


# files have few shapes of records; a stranger may give each its own
@lru_cache(maxsize=4096)
def _keys(of_record: tuple[str, ...], of_turns: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for keys, known, where in ((of_record, _OF_RECORDS, ""), *((keys, _OF_TURNS, " of a turn") for keys in of_turns)):
        unknown = []
        for key in keys:
            if key in known or key in _SAID_BESIDE or key in _ELSEWHERE:
                continue
            near = get_close_matches(key.lower(), known, n=1, cutoff=_ALIKE) if len(key) < 40 else []
            if key in TURNS:
                found.append(("misspelt_read", f"{shown(key)!r} is read as 'conversations'"))
            elif near and near[0] not in keys:
                found.append(("misspelt_key", f"{shown(key)!r}{where}: did you mean {near[0]!r}?"))
            else:
                unknown.append(key)
        if unknown:
            more = f" and {len(unknown) - _FEW} more" if len(unknown) > _FEW else ""
            found.append(("unknown_key", f"{', '.join(repr(shown(key, 40)) for key in unknown[:_FEW])}{more}{where}"))
    return tuple(dict.fromkeys(found))


def _check_id(record: dict[str, Any], sample: Sample) -> bool:
    identity = record.get("id")
    if isinstance(identity, (str, int)):
        # another trainer's form may have given it one
        sample.id = shown(str(identity), 80)
        if not isinstance(identity, str):
            sample.add("id_number", f"{sample.id}")
    elif "id" in record:
        sample.add("id_wrong", f"it is {_kind(identity)}")
        return False
    return True


def _check_written(value: dict[str, Any], sample: Sample) -> None:
    """Images as they are written: what training takes for none, and what others take for something else."""
    for key in ("image", "images"):
        if key not in value:
            continue
        written = value[key]
        if written and isinstance(written, (str, list)):
            sample.image = "a name" if isinstance(written, str) else "a list"
        if written is None or written == []:
            sample.add("image_null", f"{key} is {'null' if written is None else 'an empty list'}")
        elif isinstance(written, str) and not written.strip():
            sample.add("image_empty", f"{key} is {written!r}")
        elif key == "images" and isinstance(written, str):
            sample.add("images_text", f"images is {shown(written, 80)!r}")


def _check_names(record: dict[str, Any], sample: Sample, folder: Path, root: str | None) -> list[str] | None:
    """The names of its pictures; None where it cannot be told how many there are."""
    try:
        names = picture_names(record)
    except UnusableRecord as problem:
        sample.add(_REASONS.get(problem.reason, "unusable"), f"{problem}")
        return None
    for name in names:
        below = name
        if root is not None and name.startswith(os.path.join(root, "")):
            below = name[len(os.path.join(root, "")) :]
        if name.startswith(DATA):
            sample.pictures.append(SamplePicture(f"{name[:40]}…", Path(), folder, content=_held(name)))
        elif name.startswith(("http://", "https://")):
            sample.add("image_address", shown(name))
        elif below.startswith("/") and root is None:
            sample.add("name_absolute", shown(name))
        elif not leads_inside(below):
            sample.add("name_leads_out", shown(name))
        else:
            sample.pictures.append(SamplePicture(name, named_file(folder, below), folder))
    return names


def _held(url: str) -> bytes:
    """What a ``data:`` URL holds; nothing, where it holds no file."""
    try:
        return content_of_url(url)
    except PictureError:
        return b""


def _check_turns(record: dict[str, Any], sample: Sample, pictures: int | None) -> Any:
    """Its conversation, or None with what is wrong noted; where pictures and their marks do not match, what else is, too."""
    count, is_usable = (_marks(record), False) if pictures is None else (pictures, True)
    for _ in range(2):
        try:
            conversation = record_messages(record, count)
            return conversation if is_usable else None
        except UnusableRecord as problem:
            kind = _REASONS.get(problem.reason, "unusable")
            if problem.reason == llava_records.SILENT:
                kind = "empty_answer" if _silent_answer(record) else "empty_turn"
            sample.add(kind, f"{problem}")
            if kind != "image_marks":
                break
            count, is_usable = _marks(record), False
    return None


def _marks(record: dict[str, Any]) -> int:
    values = [turn.get("value") for turn in turns_of(record)]
    return sum(value.count(MARK) for value in values if isinstance(value, str))


def _silent_answer(record: dict[str, Any]) -> bool:
    return any(turn["from"] == "gpt" and not turn["value"].strip() for turn in turns_of(record))


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
