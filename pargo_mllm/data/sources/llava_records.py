"""One LLaVA record: its pictures' names and its conversation, or why it cannot be used."""

from __future__ import annotations

import re
from typing import Any

from pargo_mllm.data.corpus import Conversation, CorpusError, is_text, shown

MARK = "<image>"
# a common LLaVA file spells it wrongly in some records
TURNS = ("conversations", "conversatons")
# why records are left out
NO_TURNS = "records without conversations: [{from, value}]"
NO_TEXT = "records with a turn that says no text, but null, a number, a list or an object"
HALF = "records with a text that holds half a character (a lone surrogate)"
ID = "records whose id is neither text nor number"
NO_NAMES = "records whose image is neither a name nor a list of names"
BOTH = "records that have both image and images"
MANY = "records with more than 255 pictures"
VIDEO = "records that show a video or hold sound"
MARKS = f"records with more or fewer {MARK} in their turns than pictures"
UNKNOWN = "records with a turn from others than human, gpt and, in front of them, system"
ORDER = "records whose turns do not alternate from human to gpt"
SILENT = "records with a turn that says nothing"
SYSTEM = "records whose system turn shows a picture"
OPEN = "records that end with a turn from human"
_ROLES = {"human": "user", "gpt": "assistant"}
_OTHER_MEDIA = ("video", "videos", "video_path", "audio", "audios", "audio_path", "speech", "sound")
# a video's place; `<video>`, "the <video> tag" and <video>…</video> are about HTML
_PLACE = re.compile(r"(?<!`)<(video|audio|speech|sound)>(?!`| tag| element)")


class UnusableRecord(ValueError):
    """What is wrong with a record; ``reason`` is the same for all records of its kind."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


def described(value: Any) -> str:
    """A value where a text belongs, as a message may repeat it; a list or an object, which may be nested without end, by its
    kind.
    """
    return f"a {type(value).__name__}" if isinstance(value, (list, dict)) else shown(repr(value))


def picture_names(record: Any) -> list[str]:
    """The names in ``image``, or in ``images`` where that is absent; null, an empty text and an empty list are absent.

    Raises:
        UnusableRecord: if they are no names, or too many.
    """
    names, others = (None if record.get(key) in ("", []) else record.get(key) for key in ("image", "images"))
    if names is not None and others is not None:
        raise UnusableRecord(BOTH, "it has both image and images")
    names = others if names is None else names
    if isinstance(names, str):
        return [names]
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UnusableRecord(NO_NAMES, f"its image is {described(names)}, neither a name nor a list of names")
    if len(names) > 255:
        raise UnusableRecord(MANY, f"it has {len(names)} pictures")
    return names


def record_messages(record: dict[str, Any], pictures: int) -> Conversation:
    """The messages of a record with ``pictures`` pictures. White space around a text and beside ``<image>`` is left out.

    A first turn from system becomes a system message of plain text.

    Raises:
        UnusableRecord: if its turns are none, do not alternate from human to gpt, say nothing, hold half a character, or
            another number of ``<image>`` than there are pictures; if it shows a video or holds sound.
    """
    turns = _turns(record)
    if turns is None:
        raise UnusableRecord(NO_TURNS, "it has no conversations: [{from: human or gpt, value: text}]")
    values = [turn["value"] for turn in turns]
    if not is_text(values):
        raise UnusableRecord(HALF, "it has a text with half a character (a lone surrogate, such as \\ud83d)")
    check_media(record, *(turn["value"] for turn in turns if turn["from"] != "gpt"))
    marks = sum(value.count(MARK) for value in values)
    if marks != pictures:
        raise UnusableRecord(MARKS, f"it has {pictures} pictures and {marks} {MARK} in its turns; there must be one for each")
    messages: Conversation = []
    first = int(turns[0]["from"] == "system")
    if first:
        messages.append({"role": "system", "content": _system(values[0])})
    for number in range(first, len(turns)):
        expected = ("human", "gpt")[(number - first) % 2]
        speaker = turns[number]["from"]
        if speaker != expected:
            known = speaker in _ROLES
            raise UnusableRecord(
                ORDER if known else UNKNOWN,
                f"turn {number} is from {shown(speaker)!r}, not {expected!r}; they alternate from human on",
            )
        parts = _parts(values[number])
        if not parts:
            raise UnusableRecord(SILENT, f"turn {number} says nothing")
        messages.append({"role": _ROLES[expected], "content": parts})
    if (len(turns) - first) % 2 or len(turns) == first:
        raise UnusableRecord(OPEN, "it ends with a turn that no turn from gpt answers")
    return messages


def check_media(record: dict[str, Any], *texts: str) -> None:
    """Refuse what a model of pictures and text cannot be shown: a video or sound that a record names, or has a place for.

    Raises:
        UnusableRecord: for :data:`VIDEO`.
    """
    for key in _OTHER_MEDIA:
        # None, "", [] name nothing
        if record.get(key):
            raise UnusableRecord(VIDEO, f"it has {key}; only pictures and text are read")
    for text in texts:
        place = _PLACE.search(text)
        if place is not None and f"</{place[1]}>" not in text:
            raise UnusableRecord(VIDEO, f"it has a place for {place[0]} in its text; only pictures and text are read")


def llava_conversation(record: dict[str, Any], pictures: int, name: str) -> Conversation:
    """:func:`record_messages`, whose errors name the record.

    Raises:
        CorpusError: in place of UnusableRecord.
    """
    try:
        return record_messages(record, pictures)
    except UnusableRecord as error:
        raise CorpusError(f"{name}: {error}.") from error


def _turns(record: dict[str, Any]) -> list[dict[str, str]] | None:
    turns = next((record[key] for key in TURNS if key in record), None)
    if not isinstance(turns, list) or not turns:
        return None
    for turn in turns:
        if not (isinstance(turn, dict) and isinstance(turn.get("from"), str) and isinstance(turn.get("value"), str)):
            return None
    return turns


def _system(value: str) -> str:
    if MARK in value:
        raise UnusableRecord(SYSTEM, f"its system turn holds {MARK}")
    if not value.strip():
        raise UnusableRecord(SILENT, "its system turn says nothing")
    return value.strip()


def _parts(value: str) -> list[dict[str, str]]:
    # most texts show nothing, and a file is checked whole when it is opened
    if MARK not in value:
        text = value.strip()
        return [{"type": "text", "text": text}] if text else []
    pieces = re.split(f"({MARK})", value)
    return [
        {"type": "image"} if piece == MARK else {"type": "text", "text": piece.strip()} for piece in pieces if piece.strip()
    ]
