"""Records as other trainers write them, read as LLaVA's: a picture's name under ``image``, turns under ``conversations``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pargo_mllm.data.corpus import shown
from pargo_mllm.data.sources.llava_records import (
    BOTH,
    MARK,
    NO_NAMES,
    NO_TEXT,
    NO_TURNS,
    VIDEO,
    UnusableRecord,
    described,
)

# why records are left out
TWO_FORMS = "records in two forms at once (conversations beside messages, from beside role)"
TWO_PLACES = "records that name their pictures in two places at once"
ORDER_OF_PICTURES = "records that show their pictures in another order than they are named in"
TOOLS = "records with tools or calls of them"
PREFERENCES = "records that compare or judge answers (chosen, rejected, label)"
UNLEARNED = "records with an answer that is not to be learned (weight 0, loss or train false)"
PARTS = "records with a part of a message that is neither text nor a picture"
SYSTEMS = "records whose system is no text, or is said twice"
BOXES = "records with places for boxes (<bbox>, <ref-object>), which are filled in elsewhere"

# a list of turns; one LLaVA file spells its own wrongly
_LISTS = ("conversations", "conversatons", "conversation", "messages", "texts")
# a question and its answer under two keys; both must be there
_PAIRS = {"query": "response", "instruction": "output"}
_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "human"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "chatbot", "bot", "bing", "bard", "model"), "gpt"),
    **dict.fromkeys(("system", "developer"), "system"),
}
_TOOLS = {
    *("tool", "tools", "tool_call", "tool_calls", "tool_response", "tool_result"),
    *("function", "function_call", "function_response", "observation", "ipython"),
}
_ASKS, _ANSWERS = ("user", "human"), ("assistant", "gpt", "bot")
_TEXTS = ("text", "input_text", "output_text")
_PICTURES = ("image", "image_url", "input_image")
_PLACES = ("image", "image_url", "path", "url", "base64")
_MEDIA = ("video", "video_url", "input_video", "audio", "audio_url", "input_audio")
# keys by which a record, or a turn, is not simply LLaVA's
_COMPARED = ("rejected", "rejected_response", "rejected_messages")
_OTHERS = frozenset((*_LISTS[1:], *_PAIRS, *_PAIRS.values(), *_COMPARED, "images", "objects", "system", "tools"))
_PLAIN = ("human", "gpt", "system")
# Qwen-VL's; HTML's <img> has no end, and what stands between is a name
_NAMED = re.compile(r"<img>\s*([^<>\"'\s][^<>\"'\n]{0,1000}?)\s*</img>")
_BOX = re.compile(r"<(?:bbox|ref-object)>")

Turn = dict[str, str]


def as_llava(record: Any) -> Any:
    """A record in any of the forms as LLaVA has it; one that is LLaVA's already, or nothing that is known, as it is.

    Keys that say something else (``id``, ``frame``, …) stay. Texts stay as they are; the parts of a message are joined
    without anything between them. Pictures' names, and ``data:`` URLs in their place, come in the order in which they are
    shown.

    Raises:
        UnusableRecord: if it is in two forms at once, names its pictures in two places, or says what LLaVA's form cannot.
    """
    if not isinstance(record, dict) or _is_llava(record):
        return record
    found = [key for key in _LISTS if _is_list(record.get(key))]
    found += [key for key, answer in _PAIRS.items() if record.get(key) is not None and record.get(answer) is not None]
    if not found:
        return record
    if len(found) > 1:
        raise UnusableRecord(TWO_FORMS, f"it has {' and '.join(found)}")
    (form,) = found
    _refuse(record, form)
    rest = {key: value for key, value in record.items() if key not in (*_LISTS, "image", "images", "system")}
    names = _named(record)
    inside: list[str] = []
    if form in _PAIRS:
        turns = list(_turns_of_pair(record, form))
        read = (form, _PAIRS[form], "history", *(["input"] if form == "instruction" else []))
        rest = {key: value for key, value in rest.items() if key not in read}
    else:
        turns = list(_turns_of_list(record[form], inside))
        _check_order(record[form])
    turns = [*_system(record, turns), *turns]
    if form in ("query", "texts") and not any(MARK in turn["value"] for turn in turns):
        # their readers show all pictures before the first question
        turns = _in_front(turns, len(names))
    if not names and not inside:
        turns = list(_with_names(turns, inside))
    if names and inside:
        raise UnusableRecord(TWO_PLACES, "pictures are named in its turns and beside them")
    if record.get("objects") and any(_BOX.search(turn["value"]) for turn in turns):
        raise UnusableRecord(BOXES, "its texts hold <bbox> or <ref-object>")
    names = names or inside
    pictures = {"image": names[0] if len(names) == 1 else names} if names else {}
    return {**rest, **pictures, "conversations": turns}


def _is_llava(record: dict[str, Any]) -> bool:
    """Whether nothing has to be done; most records of most files."""
    turns = record.get("conversations")
    if type(turns) is not list or not _OTHERS.isdisjoint(record) or type(record.get("image", MARK)) is not str:
        return False
    has_picture = "image" in record
    for turn in turns:
        if type(turn) is not dict or len(turn) != 2 or turn.get("from") not in _PLAIN:
            return False
        value = turn.get("value")
        if type(value) is not str or (not has_picture and "</img>" in value):
            return False
    return True


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _refuse(record: dict[str, Any], form: str) -> None:
    """What would be lost, or turned round, in LLaVA's form."""
    if record.get("tools") not in (None, "", "[]", [], {}):
        raise UnusableRecord(TOOLS, "it has tools")
    compared = any(record.get(key) is not None for key in _COMPARED)
    judged = form not in _LISTS[:2] and isinstance(record.get("label", record.get("kto_tag")), bool)
    if compared or judged:
        raise UnusableRecord(PREFERENCES, "it says which of two answers is better, or whether one is good")


def _turns_of_pair(record: dict[str, Any], form: str) -> Iterator[Turn]:
    """ms-swift's ``query`` and ``response``, alpaca's ``instruction``, ``input`` and ``output``; older turns in ``history``."""
    history = record.get("history")
    if history is not None and not isinstance(history, list):
        raise _no_turns("its history is no list")
    for pair in history or []:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise _no_turns("its history is no list of pairs")
        yield from (_turn("human", pair[0]), _turn("gpt", pair[1]))
    question = record[form]
    more = record.get("input") if form == "instruction" else None
    if more not in (None, ""):
        question = f"{_text(question)}\n{_text(more)}"
    yield from (_turn("human", question), _turn("gpt", record[_PAIRS[form]]))


def _turns_of_list(listed: list[Any], names: list[str]) -> Iterator[Turn]:
    """Turns, or pairs of question and answer; ``names`` gets those of the pictures in them."""
    for number, said in enumerate(listed):
        if not isinstance(said, dict):
            raise _no_turns(f"turn {number} is no turn")
        asks = [key for key in _ASKS if isinstance(said.get(key), str)]
        answers = [key for key in _ANSWERS if isinstance(said.get(key), str)]
        if len(asks) == len(answers) == 1 and "from" not in said and "role" not in said:
            yield from (_turn("human", said[asks[0]]), _turn("gpt", said[answers[0]]))
            continue
        keys = [key for key in ("from", "role") if said.get(key) is not None]
        if len(keys) > 1 or (said.get("value") is not None and said.get("content") is not None):
            raise UnusableRecord(TWO_FORMS, f"turn {number} has from and role, or value and content")
        speaker = said[keys[0]] if keys else None
        if not isinstance(speaker, str):
            raise _no_turns(f"turn {number} does not say who speaks")
        if speaker in _TOOLS or said.get("tool_calls") or said.get("function_call"):
            raise UnusableRecord(TOOLS, f"turn {number} is from {shown(speaker)}, or calls a tool")
        role = _SPEAKERS.get(speaker, speaker)
        if role == "gpt" and any(said.get(key, True) in (0, False) for key in ("weight", "loss", "train")):
            raise UnusableRecord(UNLEARNED, f"turn {number} is not to be learned")
        content = said.get("content") if said.get("value") is None else said["value"]
        yield _turn(role, _joined(content, number, names) if isinstance(content, list) else content)


def _joined(parts: list[Any], number: int, names: list[str]) -> str:
    """The parts of a message as LLaVA has them."""
    said = []
    for part in parts:
        if not isinstance(part, dict):
            raise _no_turns(f"turn {number} says {described(part)}, which is no part of a message")
        kind = part.get("type")
        if kind in _TEXTS:
            said.append(_text(part.get("text")))
        elif kind in _PICTURES:
            said.append(MARK)
            places = [part[key] for key in _PLACES if part.get(key) is not None]
            if len(places) > 1:
                raise UnusableRecord(TWO_PLACES, f"a picture in turn {number} is named twice")
            if places:
                names.append(_name(places[0], is_base64=part.get("base64") is not None))
        elif kind in _MEDIA:
            raise UnusableRecord(VIDEO, f"turn {number} has a part that is {kind}; only pictures and text are read")
        else:
            raise UnusableRecord(PARTS, f"turn {number} has a part that is {described(kind)}")
    return "".join(said)


def _check_order(listed: list[Any]) -> None:
    """Parts may number the pictures that stand beside them; they are taken in their order."""
    contents = (said.get("content") for said in listed)
    parts = (part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict))
    order = [part["index"] for part in parts if part.get("type") in _PICTURES and part.get("index") is not None]
    if order != list(range(len(order))):
        raise UnusableRecord(ORDER_OF_PICTURES, "its parts show its pictures in another order than they are named in")


def _system(record: dict[str, Any], turns: list[Turn]) -> list[Turn]:
    """The turn of a system that is said beside the turns."""
    system = record.get("system")
    if system in (None, ""):
        return []
    if not isinstance(system, str) or (turns and turns[0]["from"] == "system"):
        raise UnusableRecord(SYSTEMS, "its system is no text, or stands in its turns too")
    return [_turn("system", system)]


def _named(record: dict[str, Any]) -> list[str]:
    """The pictures that are named beside the turns."""
    values = [record[key] for key in ("image", "images") if record.get(key) not in (None, "", [])]
    if len(values) > 1:
        raise UnusableRecord(BOTH, "it has both image and images")
    listed = values[0] if values and isinstance(values[0], list) else values
    return [_name(value) for value in listed]


def _name(value: Any, is_base64: bool = False) -> str:
    """A picture's name, or its content as a ``data:`` URL."""
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        if content is not None:
            value, is_base64 = content, True
        else:
            value = path if path is not None else value.get("url")
    if not isinstance(value, str):
        raise UnusableRecord(NO_NAMES, f"its image is {described(value)}, neither a name nor a list of names")
    if is_base64:
        return value if value.startswith("data:") else f"data:;base64,{value}"
    return value.removeprefix("file://") if value.startswith("file:///") else value


def _with_names(turns: list[Turn], names: list[str]) -> Iterator[Turn]:
    """Turns in which pictures are named as Qwen-VL names them."""
    for turn in turns:
        if turn["from"] != "human" or "</img>" not in turn["value"]:
            yield turn
            continue
        found = _NAMED.findall(turn["value"])
        names += map(_name, found)
        yield {**turn, "value": _NAMED.sub(MARK, turn["value"])}


def _in_front(turns: list[Turn], pictures: int) -> list[Turn]:
    first = next((number for number, turn in enumerate(turns) if turn["from"] == "human"), None)
    if first is None or not pictures:
        return turns
    shows = {**turns[first], "value": MARK * pictures + "\n" + turns[first]["value"]}
    return [*turns[:first], shows, *turns[first + 1 :]]


def _turn(speaker: str, value: Any) -> Turn:
    return {"from": speaker, "value": _text(value)}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UnusableRecord(NO_TEXT, f"a turn says {described(value)}, which is no text")
    return value


def _no_turns(detail: str) -> UnusableRecord:
    return UnusableRecord(NO_TURNS, detail)
