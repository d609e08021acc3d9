"""Referring expressions about scenes: things by names that fit them alone, each with its box as text.

A box counts in cells of the board, ``x1,y1,x2,y2`` from 0 to 8, so that ``3,5,4,6`` is the one cell D6: digits and commas are
what the miniature's vocabulary can write. It is the box of the cells that the layout gives a thing, not of what is painted into
them: small shapes, figures and letters are smaller than their cell; the big shape and the photograph fill theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pargo_mllm.data.frames import Box, read_box
from pargo_mllm.data.questions import Question
from pargo_mllm.data.scenes.layout import (
    BIG_CELLS,
    CELLS,
    DIGITS,
    PHOTO_CELLS,
    WORD_LENGTH,
    Scene,
    scene_layout,
    scene_rng,
)


@dataclass(frozen=True)
class Referred:
    """A thing of a scene: its ``kind``, an ``expression`` that means no other, and its ``box`` in cells."""

    kind: str
    expression: str
    box: tuple[int, int, int, int]


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


def write_cells(box: Sequence[float]) -> str:
    """``x1,y1,x2,y2``."""
    return ",".join(f"{number:g}" for number in box)


def read_cells(text: str) -> Box | None:
    """The box of a text as :func:`write_cells` writes it, with spaces or without, or the first one in brackets; None where it
    has none."""
    return read_box(text) or read_box(f"[{text}]")


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


def _cells(row: int, column: int, width: int, height: int | None = None) -> tuple[int, int, int, int]:
    return column, row, column + width, row + (height or width)
