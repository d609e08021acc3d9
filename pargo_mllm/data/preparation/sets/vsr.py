"""VSR: whether a sentence about where two things are is true of a photograph."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pargo_mllm.data.preparation.data_set import INSTRUCTIONS, DataSet, Need, Options
from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped, turns
from pargo_mllm.data.preparation.fields import line, text
from pargo_mllm.data.preparation.instructions import YES_NO, short
from pargo_mllm.data.preparation.official_files import OfficialFiles
from pargo_mllm.data.sources.json_rows import DAMAGED

HOME = "https://github.com/cambridgeltl/visual-spatial-reasoning"
NO_STATEMENT = 'captions of another form than "The X is R the Y."'
NO_LABEL = "captions whose label is neither 0 nor 1"
_STATEMENT = re.compile(
    r"(?P<first>(?:the|an?) [^.?!]+?) (?:(?P<be>is|are) (?P<where>[^.?!]+)"
    r"|(?P<verb>contains?|consists? of|ha(?:s|ve) as a part|ha(?:s|ve)) (?P<second>[^.?!]+))[. ]*",
    re.IGNORECASE,
)
# what makes it unsure which verb is the sentence's, or what yes means
_CLAUSE = re.compile(r"\b(?:who|whom|whose|that|which|where|when|while|if)\b", re.IGNORECASE)
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|contains?|consists?)\b", re.IGNORECASE)
_DENIAL = re.compile(r"\b(?:not|never|no|neither|nor|without)\b|n['’]t\b", re.IGNORECASE)


def as_question(caption: str) -> str | None:
    """A caption as a question: "The cat is on the bed." asks "Is the cat on the bed?", "The cup contains the cat." asks "Does
    the cup contain the cat?"; None for one of another form, and where it is not sure which verb the sentence's is, or what a
    yes would mean: one with a clause in front of the verb, with a second sentence behind it, or that denies something.
    """
    found = _STATEMENT.fullmatch(caption)
    if found is None or _CLAUSE.search(found["first"]) or _DENIAL.search(caption):
        return None
    # a clause has a verb of its own
    behind = _CLAUSE.split(found["where"] or found["second"], maxsplit=1)[0]
    if _VERB.search(behind):
        return None
    first = found["first"][0].lower() + found["first"][1:]
    if found["be"]:
        return f"{found['be'].capitalize()} {first} {found['where'].strip()}?"
    verb, second = found["verb"].lower(), found["second"].strip()
    does = "Does" if verb.split()[0].endswith("s") else "Do"
    if verb.startswith("ha"):
        return f"{does} {first} have {second}{' as a part' * verb.endswith('part')}?"
    return f"{does} {first} {'consist of' if verb.startswith('consist') else 'contain'} {second}?"


def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
    """A record a line, with its number, from 1, as id."""
    split = options.split or "random"
    names = (f"{split}/train.jsonl", f"splits/{split}/train.jsonl", f"data/splits/{split}/train.jsonl")
    for number, row in enumerate(files.rows(*names), start=1):
        yield _entry(str(number), row, files)


def _entry(id: str, row: Any, files: OfficialFiles) -> Entry | Skipped:
    if row is DAMAGED or not isinstance(row, dict):
        return Skipped(id, "lines that are no JSON object")
    question, answer, image = as_question(line(row, "caption")), answer_of(row.get("label")), text(row, "image")
    if question is None:
        return Skipped(id, NO_STATEMENT)
    if answer is None:
        return Skipped(id, NO_LABEL)
    if not image:
        return Skipped(id, "captions of no photograph")
    # photographs of COCO's train2017 and val2017; the address ends with which
    own = text(row, "image_link").split("/")[-2:-1]
    place = files.first(*(f"{folder}/{image}" for folder in ("images", "trainval2017", *own, "train2017", "val2017") if folder))
    asked = f"{short(question)} {YES_NO}"
    return Entry(id, Picture.file(place), turns([(asked, answer)]))


def answer_of(label: Any) -> str | None:
    """What a label says: 0 or 1, in whichever way JSON spells the number (1, 1.0, true, "1")."""
    if not isinstance(label, (bool, int, float, str)):
        return None
    return {1: "yes", "1": "yes", 0: "no", "0": "no"}.get(label)


ALL = [
    DataSet(
        name="vsr",
        title="Visual Spatial Reasoning",
        kind=INSTRUCTIONS,
        about="questions on where two things in a photograph are, answered with yes or no",
        needs=(
            Need("random/train.jsonl", "captions with labels (or zeroshot/train.jsonl, with --split zeroshot)", HOME),
            Need("images/", "the photographs (or COCO's train2017/ and val2017/)", HOME),
        ),
        licence="captions Apache 2.0; each photograph has its own Flickr licence, several not for commercial use",
        size="about 7,700 captions of photographs of COCO",
        entries=entries,
        weight=0.026,
        splits=("random", "zeroshot"),
    )
]
