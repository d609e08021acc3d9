"""Visual Genome: the words of the phrases on regions of photographs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pargo_mllm.data.frames import from_xywh
from pargo_mllm.data.preparation.fields import line, numbers, text, whole
from pargo_mllm.data.preparation.patches.told import NO_NUMBERS, Told, each_once
from pargo_mllm.data.sources.json_rows import json_rows

SIZES = "image_data.json"
NO_REGIONS = "photographs without a list of regions"
NO_ID = "regions of photographs without an id"
TWICE = "regions of photographs of which image_data.json says two things"
NO_WORD = "regions whose phrase has no content word"
ELSEWHERE = "regions that name another photograph than the one they stand with"
_BOX = ("x", "y", "width", "height")
_WORDS = """
a an the this that these those some any all both each every no other another same such one two three
i you he she it we they me him her us them my your his its our their who whom whose which what there here
is are was were be been being am has have had having do does did doing can could will would shall should may might must
and or but nor so if than then as while because when where how
of in on at by for from to with without into onto over under above below up down out off near behind beside between
through across along around against about before after next front top bottom side left right middle back
not very too also just only more most less many much few several lot
don piece kind type
"""
#: words that name nothing that is seen: a list of our own
STOP_WORDS = frozenset(_WORDS.split())


def content_words(phrase: str) -> list[str]:
    """The words of a phrase that name something, in lower case, each once: without :data:`STOP_WORDS`, numbers and what stands
    behind an apostrophe.
    """
    words = re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", re.sub(r"['’]\w*", " ", phrase.lower()))
    return [word for word in dict.fromkeys(words) if word not in STOP_WORDS and len(word) > 1]


def regions(file: Path) -> Iterator[Told]:
    """What ``region_descriptions.json`` says of each photograph; a label a content word. Sizes are those of ``image_data.json``
    where that lies beside it, else the photograph's own.
    """
    sizes: dict[str, tuple[float, float] | None] = {}
    beside = file.parent / SIZES
    if beside.exists():
        for row in json_rows(beside):
            width, height = whole(row.value, "width"), whole(row.value, "height")
            if width and height:
                key, size = _id(row.value), (float(width), float(height))
                sizes[key] = size if sizes.get(key, size) == size else None
    for row in json_rows(file):
        told = row.value.get("regions") if isinstance(row.value, dict) else None
        image = _id(row.value)
        if not isinstance(told, list):
            yield Told([NO_REGIONS])
            continue
        problem = NO_ID if not image else TWICE if sizes.get(image, ()) is None else None
        found = each_once(told, partial(_region, image=image))
        yield Told(found, f"{image}.jpg", size=sizes.get(image), problem=problem)


def _id(row: Any) -> str:
    # both names are in use, by version
    return text(row, "image_id") or text(row, "id")


def _region(one: Any, image: str) -> dict[str, Any] | str:
    if isinstance(one, dict) and one.get("image_id") is not None and text(one, "image_id") != image:
        return ELSEWHERE
    words = content_words(line(one, "phrase"))
    if not words:
        return NO_WORD
    box = numbers([one.get(key) for key in _BOX])
    return {"labels": list(words), "box": list(from_xywh(box))} if len(box) == 4 else NO_NUMBERS
