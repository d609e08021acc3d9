"""Referring expressions about scenes: things by names that fit them alone, each with its box as text.

A box is written as its first and its last cell, ``A3,D6``: the miniature's vocabulary has the names of cells, which its
language model speaks, but no brackets and points for shares of the picture. It is the box of the cells that the layout gives a
thing, not of what is painted into them: small shapes, figures and letters are smaller than their cell; the big shape and the
photograph fill theirs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pargo_mllm.data.questions import Question
from pargo_mllm.data.scenes.layout import (
    BIG_CELLS,
    CELLS,
    COLUMNS,
    DIGITS,
    PHOTO_CELLS,
    WORD_LENGTH,
    Scene,
    scene_layout,
    scene_rng,
)

#: left, top, right and bottom edge, counted in cells: the first one is (0, 0, 1, 1)
Cells = tuple[int, int, int, int]
_BOX = re.compile(rf"\b([{COLUMNS}])([1-{CELLS}])\s*,\s*([{COLUMNS}])([1-{CELLS}])\b")


@dataclass(frozen=True)
class Referred:
    """A thing of a scene: its ``kind``, an ``expression`` that means no other, and its ``box``."""

    kind: str
    expression: str
    box: Cells


def referred(scene: Scene) -> list[Referred]:
    """All things with an expression that fits them alone. A small shape as the big one is, in colour and form, has none."""
    things = list(_named(scene))
    meant = Counter(thing.expression for thing in things)
    if scene.big is not None:
        # the big red circle is a red circle too
        meant[" ".join(scene.big[:2])] += 1
    return [thing for thing in things if meant[thing.expression] == 1]


def referring_questions(scene: Scene, rng: np.random.Generator, per_kind: int) -> tuple[Question, ...]:
    """Where things are, at most ``per_kind`` of a kind."""
    by_kind: dict[str, list[Referred]] = {}
    for thing in referred(scene):
        by_kind.setdefault(thing.kind, []).append(thing)
    return tuple(
        Question(kind, f"the {things[place].expression} is at?", write_cells(things[place].box))
        for kind, things in by_kind.items()
        for place in rng.permutation(len(things))[:per_kind]
    )


def scene_boxes(split: str, seed: int, index: int, per_kind: int) -> tuple[Question, ...]:
    """Where things of scene ``index`` are; a random stream of its own, beside that of the questions."""
    return referring_questions(scene_layout(split, seed, index), scene_rng(split, seed, index, 2), per_kind)


def write_cells(box: Cells) -> str:
    """The cells of the left upper and the right lower corner: ``A3,D6``."""
    x1, y1, x2, y2 = box
    return f"{COLUMNS[x1]}{y1 + 1},{COLUMNS[x2 - 1]}{y2}"


def read_cells(text: str) -> Cells | None:
    """The first box of a text as :func:`write_cells` writes it, with spaces or without; None where it has none."""
    found = _BOX.search(text)
    if found is None:
        return None
    first, row, last, last_row = found.groups()
    return COLUMNS.index(first), int(row) - 1, COLUMNS.index(last) + 1, int(last_row)


def all_cells() -> list[Cells]:
    """Every box that can be written."""
    sides = list(combinations(range(CELLS + 1), 2))
    return [(x1, y1, x2, y2) for x1, x2 in sides for y1, y2 in sides]


def _named(scene: Scene) -> Iterator[Referred]:
    name, row, column = scene.photo
    yield Referred("photograph", f"photograph of {name}", _cells(row, column, PHOTO_CELLS if scene.big else CELLS))
    if scene.big is None:
        return
    colour, shape, row, column = scene.big
    yield Referred("big", f"big {colour} {shape}", _cells(row, column, BIG_CELLS))
    first = scene.letters()[0]
    yield Referred("word", f"word {' '.join(scene.word)}", _cells(first.row, first.column, 1, WORD_LENGTH))
    for item in scene.things():
        yield Referred("digit" if item.what in DIGITS else "shape", " ".join(item.words()), _cells(item.row, item.column, 1))


def _cells(row: int, column: int, width: int, height: int | None = None) -> Cells:
    return column, row, column + width, row + (height or width)
