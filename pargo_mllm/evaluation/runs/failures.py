"""Wrong answers to look at: which ones are shown, their pictures, and what the answers looked at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pargo_mllm.data.corpus import Conversation
from pargo_mllm.errors import UserError
from pargo_mllm.evaluation.benchmark import Item, Mark
from pargo_mllm.evaluation.runs.run_folder import FAILURES
from pargo_mllm.files import whole_file, write_whole

MOST = 24
# pixels, of a picture that is kept to be looked at
LONGEST_SIDE = 512
# an answer that is worth less is wrong
_WRONG = 0.5


def chosen(marks: Sequence[Mark], most: int = MOST) -> list[Mark]:
    """At most so many wrong answers: of all parts in turn, the worst of each first, on as many pictures as there are.

    The same marks give the same ones.
    """
    parts: dict[str, list[Mark]] = {}
    for mark in sorted((mark for mark in marks if mark.value < _WRONG), key=lambda mark: mark.value):
        parts.setdefault(mark.item.part, []).append(mark)
    order = dict.fromkeys(mark.item.part for mark in marks)
    queues = [parts[part] for part in order if part in parts]
    turns = [queue[place] for place in range(max(map(len, queues), default=0)) for queue in queues if place < len(queue)]
    seen: set[str] = set()
    new: list[Mark] = []
    again: list[Mark] = []
    for mark in turns:
        (again if mark.item.picture in seen else new).append(mark)
        seen |= {mark.item.picture} - {""}
    return [*new, *again][:most]


def save_failures(
    folder: Path,
    marks: Sequence[Mark],
    conversation: Callable[[Item], Conversation] | None = None,
    model: Any = None,
    processor: Any = None,
    most: int = MOST,
) -> list[str]:
    """Write ``failures.json``, and the pictures of some wrong answers with what they looked at into ``failures/``.

    Args:
        folder: of the run; what an earlier one left of both is replaced.
        marks: whose items open their pictures; of several the first is kept.
        conversation: what was asked, its pictures still missing; with
        model, processor: those that answered, for the attention. Without them there is none.
        most: answers.

    Returns:
        Why pictures or attention are missing, each reason once and counted.
    """
    (folder / FAILURES).unlink(missing_ok=True)
    shutil.rmtree(folder / "failures", ignore_errors=True)
    (folder / "failures").mkdir(parents=True)
    entries, reasons = [], []
    for number, mark in enumerate(chosen(marks, most), start=1):
        entry: dict[str, Any] = {"id": mark.item.id, "picture": None, "attention": None}
        problem = ""
        try:
            pictures = [opens() for opens in mark.item.pictures]
            if pictures:
                entry["picture"] = _save_picture(pictures[0], folder, f"failures/{number:03}.jpg")
            if pictures and model is not None and conversation is not None:
                shown = list(_shown(conversation(mark.item), pictures))
                entry["attention"] = _save_attention(
                    model, processor, shown, pictures, mark.text, folder, f"failures/{number:03}.attention.png"
                )
        except _NoAttention as error:
            problem = f"attention is not shown: {error}"
        except UserError as error:
            problem = str(error)
        if problem:
            entry["reason"] = problem
            reasons.append(problem)
        entries.append(entry)
    write_whole(folder / FAILURES, json.dumps(entries, indent=1))
    return [
        reason if (count := reasons.count(reason)) == 1 else f"{reason} ({count} answers)" for reason in dict.fromkeys(reasons)
    ]


class _NoAttention(Exception):
    """The message says why."""


def _save_picture(picture: Image.Image, folder: Path, name: str) -> str:
    small = picture.convert("RGB")
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    with whole_file(folder / name) as aside:
        small.save(aside, format="JPEG", quality=88)
    return name


def _save_attention(
    model, processor, conversation: Conversation, pictures: Sequence[Image.Image], answer: str, folder: Path, name: str
) -> str:
    try:
        from pargo_mllm.pictures.answer_attention import NoAttentionError, answer_map, draw_answer_map
    except ModuleNotFoundError as error:
        raise _NoAttention(f"{error.name} is not installed: pip install 'pargo[demo]'") from error
    if len(pictures) > 1:
        raise _NoAttention("it is drawn on one picture, and the question shows several")
    try:
        draw_answer_map(answer_map(model, processor, conversation, pictures[0], answer), folder / name)
    except (NoAttentionError, UserError) as error:
        raise _NoAttention(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise _NoAttention("the memory did not suffice to compute it") from error
    return name


def _shown(conversation: Conversation, pictures: Sequence[Image.Image]) -> Iterator[dict[str, Any]]:
    """The messages with the pictures in their places."""
    left = iter(pictures)
    for message in conversation:
        content = message["content"]
        if isinstance(content, list):
            content = [{**part, "image": next(left)} if part.get("type") == "image" else part for part in content]
        yield {**message, "content": content}
