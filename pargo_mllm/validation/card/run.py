"""A card from beginning to end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pargo_mllm.data.sources.coco import read_coco_folder
from pargo_mllm.errors import UserError
from pargo_mllm.jobs import Engine
from pargo_mllm.validation.card.about import About
from pargo_mllm.validation.card.facts import QUESTIONS, Facts, gather
from pargo_mllm.validation.division import DividedSet
from pargo_mllm.validation.findings import KINDS

#: stands in the README.md of a card, and in no other
MARK = "<!-- made by pargo data card -->"
_REFUSED = ("not_a_list", "file_broken", "shard_broken", "list_in_lines", "lines_in_json", "trailing")


class CardError(UserError):
    """A set of which there can be no card, or a folder that it cannot be written into."""


@dataclass(frozen=True)
class Card:
    """What a card says.

    Args:
        files: different pictures.
        categories: of annotated objects: (name, photographs with one, objects); None where nothing is annotated.
    """

    part: DividedSet
    about: About
    facts: Facts
    files: int
    categories: tuple[tuple[str, int, int], ...] | None

    @property
    def mean_characters(self) -> float:
        """Of an answer."""
        return self.facts.sums["characters"] / self.facts.answers

    @property
    def mean_words(self) -> float:
        """Of an answer."""
        return self.facts.sums["words"] / self.facts.answers

    @property
    def pictures(self) -> int:
        """Pictures that samples show, each as often as it is shown."""
        return sum(number * count for number, count in self.facts.pictures.items())

    @property
    def is_captions(self) -> bool:
        """Whether pictures are described, and not asked about: the preparation says it, or that everybody is asked the same."""
        if self.about.kind is not None:
            return self.about.kind.endswith("captions")
        asked = len(self.facts.questions)
        return self.pictures > 0 and (asked == 1 or asked <= min(QUESTIONS, self.facts.samples / 10))

    def told(self) -> dict[str, Any]:
        """As JSON: the row of the paper's table, and the counts beside it."""
        facts = self.facts
        return {
            "data": str(self.part.path),
            "title": self.about.title,
            "form": self.part.form,
            "entries": facts.entries,
            "samples": facts.samples,
            "left_out": dict(sorted(facts.left.items())),
            "answers": facts.answers,
            "mean_characters": round(self.mean_characters, 2),
            "mean_words": round(self.mean_words, 2),
            "pictures": self.pictures,
            "picture_files": self.files,
            "unreadable_pictures": facts.formats["unreadable"],
            "licence": self.about.licence,
            "source": self.about.source,
        }


def make_card(part: DividedSet, about: About, engine: Engine, seed: int = 0, samples: int = 24) -> Card:
    """Read all of a set.

    Args:
        seed: of the samples that are shown.
        samples: how many are.

    Raises:
        CardError: if training would refuse it, or reads nothing of it.
    """
    for finding in (*part.found, *part.behind):
        if finding.kind in _REFUSED:
            raise CardError(_refusal(part, f"{KINDS[finding.kind].what} ({finding.detail})"))
    facts = Facts()
    work = partial(gather, seed=seed, samples=samples)
    for found in engine.map(work, part.pieces, f"reading {part.path.name}"):
        facts.merge(found, samples)
        if facts.broken:
            raise CardError(_refusal(part, "it is damaged"))
    for finding in part.found:
        if finding.kind == "entry_left_out":
            facts.left[finding.detail] += finding.count
    if not facts.answers:
        raise CardError(_refusal(part, f"of {facts.entries:,} entries training reads none"))
    files = len(np.unique(np.frombuffer(facts.files, np.uint64)))
    return Card(part, about, facts, files, _categories(part))


def _refusal(part: DividedSet, why: str) -> str:
    return f"{part.path}: {why}; pargo validate says what is wrong and where."


def _categories(part: DividedSet) -> tuple[tuple[str, int, int], ...] | None:
    if part.form != "photographs":
        return None
    folder = read_coco_folder(Path(part.path))
    if not folder.has_instances:
        return None
    photographs: Counter[str] = Counter()
    objects: Counter[str] = Counter()
    for image in folder.images:
        names = [item.category for item in image.annotated]
        objects.update(names)
        photographs.update(set(names))
    order = sorted(photographs, key=lambda name: (-photographs[name], name))
    return tuple((name, photographs[name], objects[name]) for name in order)
