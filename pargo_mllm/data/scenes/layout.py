"""Generated detail scenes: pictures whose every detail is known, with captions and questions that have exact answers.

A scene is a board of 8 x 8 cells of 14 pixels (112 x 112). It holds one big striped shape (4 x 4 cells), one crop of a
photograph (3 x 3 cells), a three-letter word written downwards, and small shapes and digits, one to a cell and none side by
side. One picture in eight is a crop of a photograph and nothing else. The same split, seed and index give the same scene,
whatever else is generated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pargo_mllm.data.questions import Question
from pargo_mllm.data.regions import WHOLE, Region
from pargo_mllm.data.scenes.drawing import SHAPES, glyph_mask, paint, shape_mask, stripes
from pargo_mllm.data.scenes.photographs import PHOTOGRAPHS, random_crop

CELL = 14
CELLS = 8
SIDE = CELL * CELLS
ITEM = 12
BIG_CELLS = 4
PHOTO_CELLS = 3
WORD_LENGTH = 3
PHOTO_ONLY_SHARE = 1 / 8

COLOURS = {
    "red": (225, 45, 45),
    "green": (50, 190, 70),
    "blue": (65, 105, 240),
    "yellow": (235, 210, 50),
    "purple": (175, 70, 200),
}
DIGITS = tuple("0123456789")
CONSONANTS = tuple("bdfghklmnprstvz")
VOWELS = tuple("aeiou")
COLUMNS = "ABCDEFGH"
# "text" scenes are never painted: stage 0b tells their facts
SPLITS = ("train", "validation", "test", "text")

_WORD_COLOUR = (235, 235, 235)


@dataclass(frozen=True)
class Item:
    """A thing in one cell: a small shape, a digit (``what`` is its name) or a letter of the word (white, no colour)."""

    row: int
    column: int
    what: str
    colour: str | None

    @property
    def cell(self) -> str:
        """The name of its cell, as on a chess board seen from above: A1 is top left, H8 bottom right."""
        return f"{COLUMNS[self.column]}{self.row + 1}"

    def words(self) -> tuple[str, ...]:
        """Its colour, where it has one, and what it is."""
        return (self.what,) if self.colour is None else (self.colour, self.what)

    def place(self) -> tuple[int, int]:
        """Row and column: the raster order."""
        return self.row, self.column


@dataclass(frozen=True)
class Scene:
    """What is in a picture, without pixels. ``big`` is (colour, shape, top row, left column); ``photo`` (name, row, column)."""

    photo: tuple[str, int, int]
    big: tuple[str, str, int, int] | None = None
    word: str = ""
    items: tuple[Item, ...] = ()

    def letters(self) -> list[Item]:
        """The letters of the word from top to bottom."""
        return [item for item in self.items if item.colour is None]

    def things(self) -> list[Item]:
        """Small shapes and digits in raster order."""
        return sorted((item for item in self.items if item.colour is not None), key=Item.place)

    def digits(self) -> list[Item]:
        """The digits; their colours differ."""
        return [item for item in self.things() if item.what in DIGITS]


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw the layout of a scene."""
    photo_name = _choice(rng, tuple(PHOTOGRAPHS))
    if rng.random() < PHOTO_ONLY_SHARE:
        return Scene(photo=(photo_name, 0, 0))
    taken = np.zeros((CELLS, CELLS), dtype=bool)
    big_row, big_column, photo_row, photo_column = _place_two(rng)
    taken[big_row : big_row + BIG_CELLS, big_column : big_column + BIG_CELLS] = True
    taken[photo_row : photo_row + PHOTO_CELLS, photo_column : photo_column + PHOTO_CELLS] = True
    word_row, word_column = _place(rng, taken, WORD_LENGTH)
    word = _choice(rng, CONSONANTS) + _choice(rng, VOWELS) + _choice(rng, CONSONANTS)
    items = [Item(word_row + i, word_column, letter, None) for i, letter in enumerate(word)]
    num_digits, num_shapes = int(rng.integers(2, 5)), int(rng.integers(4, 8))
    digit_colours = rng.permutation(list(COLOURS))[:num_digits]
    for colour in digit_colours:
        items.append(Item(*_place(rng, taken), _choice(rng, DIGITS), str(colour)))
    for _ in range(num_shapes):
        if taken.all():
            break
        items.append(Item(*_place(rng, taken), _choice(rng, SHAPES), _choice(rng, tuple(COLOURS))))
    return Scene(
        photo=(photo_name, photo_row, photo_column),
        big=(_choice(rng, tuple(COLOURS)), _choice(rng, SHAPES), big_row, big_column),
        word=word,
        items=tuple(items),
    )


def draw(scene: Scene, rng: np.random.Generator, photo_split: str) -> Image.Image:
    """Paint a scene, RGB 112 x 112: jitter of 0-2 pixels, stripes, crop and noise come from ``rng``."""
    if scene.big is None:
        return Image.fromarray(random_crop(scene.photo[0], photo_split, SIDE, rng))
    canvas = np.full((SIDE, SIDE, 3), rng.uniform(20, 60), dtype=np.float32)
    colour, shape, row, column = scene.big
    side = BIG_CELLS * CELL
    shade = stripes(side, int(rng.integers(6, 11)), int(rng.choice((0, 45, 90, 135))))
    paint(canvas, shape_mask(shape, side), COLOURS[colour], row * CELL, column * CELL, shade)
    for item in scene.items:
        mask = shape_mask(item.what, ITEM) if item.what in SHAPES else glyph_mask(item.what.upper(), ITEM)
        jitter = rng.integers(0, CELL - ITEM + 1, size=2)
        paint(
            canvas,
            mask,
            COLOURS[item.colour] if item.colour else _WORD_COLOUR,
            item.row * CELL + int(jitter[0]),
            item.column * CELL + int(jitter[1]),
        )
    canvas += rng.normal(0, 10, size=canvas.shape).astype(np.float32)
    name, row, column = scene.photo
    side = PHOTO_CELLS * CELL
    canvas[row * CELL : row * CELL + side, column * CELL : column * CELL + side] = random_crop(name, photo_split, side, rng)
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))


def facts(scene: Scene) -> list[tuple[str, ...]]:
    """The scene as short lists of words, one for each thing: what stage 0 teaches the language model to answer from."""
    told: list[tuple[str, ...]] = [("photograph", scene.photo[0])]
    if scene.big is not None:
        told.append(("big", scene.big[0], scene.big[1]))
    for item in scene.items:
        kind = ("digit",) if item.what in DIGITS else ()
        told.append((item.cell, *item.words(), *kind))
    return told


def regions(scene: Scene) -> tuple[Region, ...]:
    """Where each word that names a thing, or its colour, is true of the picture: a region a word, the thing's cells its box."""
    if scene.big is None:
        return (Region((scene.photo[0],), WHOLE),)
    colour, shape, row, column = scene.big
    things: list[tuple[tuple[str, ...], int, int, int]] = [((colour, shape), row, column, BIG_CELLS)]
    things.append((scene.photo[:1], *scene.photo[1:], PHOTO_CELLS))
    things += [(item.words(), item.row, item.column, 1) for item in scene.items]
    return tuple(
        Region((word,), (column / CELLS, row / CELLS, (column + cells) / CELLS, (row + cells) / CELLS))
        for words, row, column, cells in things
        for word in words
    )


def region_names() -> tuple[str, ...]:
    """Every word that :func:`regions` may give."""
    return (*PHOTOGRAPHS, *COLOURS, *SHAPES, *DIGITS, *CONSONANTS, *VOWELS)


def captions(scene: Scene) -> tuple[Question, Question]:
    """A coarse and a detailed caption."""
    coarse, detailed = _caption_texts(scene)
    return Question("coarse caption", "describe briefly", coarse), Question("detailed caption", "describe in detail", detailed)


def _caption_texts(scene: Scene) -> tuple[str, str]:
    photo = f"photograph of {scene.photo[0]}"
    if scene.big is None:
        return photo, f"nothing but the {photo}"
    coarse = f"big {scene.big[0]} {scene.big[1]} and {photo}"
    details = ", ".join(" ".join((item.cell, *item.words())) for item in sorted(scene.items, key=Item.place))
    return coarse, f"{coarse}; word {' '.join(scene.word)}; {details}"


def questions(scene: Scene, rng: np.random.Generator, per_kind: int = 2) -> tuple[Question, ...]:
    """At most ``per_kind`` questions of each kind, drawn from all that the scene allows."""
    asked = [Question("photograph", "which photograph?", scene.photo[0])]
    if scene.big is None:
        return tuple(asked)
    asked.append(Question("big", "which big shape?", f"{scene.big[0]} {scene.big[1]}"))
    asked.append(Question("word", "which word?", " ".join(scene.word)))
    for digit in _some(rng, scene.digits(), per_kind):
        asked.append(Question("digit", f"which {digit.colour} digit?", digit.what))
    for thing in _some(rng, scene.things(), per_kind):
        asked.append(Question("colour", f"which colour is at {thing.cell}?", str(thing.colour)))
    for thing in _some(rng, list(scene.items), per_kind):
        asked.append(Question("object", f"what is at {thing.cell}?", thing.what))
    return tuple(asked)


def scene_and_picture(split: str, seed: int, index: int) -> tuple[Scene, Image.Image]:
    """Scene ``index`` of a split, painted; its photograph comes from the blocks of the same split."""
    rng = scene_rng(split, seed, index)
    scene = random_scene(rng)
    return scene, draw(scene, rng, split)


def scene_layout(split: str, seed: int, index: int) -> Scene:
    """Scene ``index`` of a split without its picture."""
    return random_scene(scene_rng(split, seed, index))


def scene_questions(split: str, seed: int, index: int, per_kind: int) -> tuple[Question, ...]:
    """Questions about scene ``index``; a random stream of its own, so that the picture does not depend on them."""
    return questions(scene_layout(split, seed, index), scene_rng(split, seed, index, 1), per_kind)


def scene_rng(split: str, seed: int, *stream: int) -> np.random.Generator:
    """Random numbers of a scene's index, and of what is drawn from it apart: 1 its questions, 2 its boxes."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; it must be one of {', '.join(SPLITS)}.")
    return np.random.default_rng([SPLITS.index(split), seed, *stream])


def _place_two(rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top-left cells of the big shape and of the photograph, uniform among the pairs that do not overlap."""
    while True:
        big = rng.integers(0, CELLS - BIG_CELLS + 1, size=2)
        photo = rng.integers(0, CELLS - PHOTO_CELLS + 1, size=2)
        # the photograph ends before the big shape begins, or begins after it ends, in some direction
        if ((photo + PHOTO_CELLS <= big) | (big + BIG_CELLS <= photo)).any():
            return int(big[0]), int(big[1]), int(photo[0]), int(photo[1])


def _place(rng: np.random.Generator, taken: np.ndarray, height: int = 1) -> tuple[int, int]:
    """Take ``height`` free cells in a column, uniformly among those that are free, and the cells beside them."""
    free = np.lib.stride_tricks.sliding_window_view(~taken, (height, 1)).all(axis=(2, 3))
    choices = np.argwhere(free)
    row, column = choices[rng.integers(len(choices))]
    taken[row : row + height, max(0, column - 1) : column + 2] = True
    return int(row), int(column)


def _choice(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


def _some(rng: np.random.Generator, items: list[Item], count: int) -> list[Item]:
    return [items[i] for i in rng.permutation(len(items))[:count]]
