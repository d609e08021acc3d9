"""Questions with exact answers about the objects of a photograph, from boxes alone."""

from __future__ import annotations

from collections import Counter

import numpy as np

from pargo_mllm.data.questions import Question
from pargo_mllm.data.sources.coco import CocoObject

ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "centre", "right")
# an object counts as the largest, or as the one in a ninth, only where no other comes near it
CLEARLY_LARGER = 1.5


def place(item: CocoObject) -> str:
    """The ninth of the picture in which an object's centre lies, such as "top left"."""
    x, y = item.centre
    return f"{ROWS[min(2, int(3 * y))]} {COLUMNS[min(2, int(3 * x))]}"


def clear_largest(objects: list[CocoObject]) -> CocoObject | None:
    """The largest object, if it is clearly larger than every object of another category."""
    if not objects:
        return None
    largest = max(objects, key=lambda item: item.area)
    others = [item.area for item in objects if item.category != largest.category]
    return largest if largest.area >= CLEARLY_LARGER * max(others, default=0.0) else None


def object_questions(
    objects: list[CocoObject], categories: list[str], rng: np.random.Generator, per_kind: int = 2
) -> tuple[Question, ...]:
    """At most ``per_kind`` questions of each kind.

    Args:
        objects: everything that the picture shows.
        categories: what may be asked for and answered; an absent one is asked for with every present one, so that yes and
            no are as frequent.
    """
    asked = []
    largest = clear_largest(objects)
    if largest is not None and largest.category in categories:
        asked.append(Question("largest", "which object is the largest?", largest.category))
    present = sorted({item.category for item in objects if item.category in categories})
    absent = sorted(set(categories) - set(present))
    for category in _some(rng, present, per_kind // 2 or 1):
        if absent:
            asked.append(Question("presence", f"is there {_a(category)}?", "yes"))
            asked.append(Question("presence", f"is there {_a(_some(rng, absent, 1)[0])}?", "no"))
    counts = Counter(item.category for item in objects)
    alone = [item for item in objects if counts[item.category] == 1 and item.category in categories]
    for item in _some(rng, alone, per_kind):
        asked.append(Question("where", f"where is the {item.category}?", place(item)))
    ninths: dict[str, list[CocoObject]] = {}
    for item in objects:
        ninths.setdefault(place(item), []).append(item)
    clear = {name: found for name, items in ninths.items() if (found := clear_largest(items)) and found.category in categories}
    for name in _some(rng, sorted(clear), per_kind):
        asked.append(Question("at a place", f"which object is at the {name}?", clear[name].category))
    return tuple(asked)


def object_facts(objects: list[CocoObject]) -> tuple[tuple[str, ...], ...]:
    """The objects as lists of words: category, place, and "largest" for the one that is."""
    largest = clear_largest(objects)
    return tuple((*item.category.split(), *place(item).split(), *(("largest",) if item is largest else ())) for item in objects)


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _some(rng: np.random.Generator, options: list, count: int) -> list:
    return [options[index] for index in rng.permutation(len(options))[:count]]
