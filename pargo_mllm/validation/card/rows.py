"""The tables of a card, as cells of text: the page and the hub's card show the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pargo_mllm.pictures.lengths import quantile
from pargo_mllm.validation.card.facts import LONGEST, Facts
from pargo_mllm.validation.card.paper import TABLE_1
from pargo_mllm.validation.card.run import Card
from pargo_mllm.validation.card.words import Tops

Rows = list[tuple[str, ...]]

#: of a list of words
WORDS = 30


def table_1(card: Card) -> tuple[Sequence[str], Rows]:
    """The paper's table with this set behind it."""
    rows: Rows = [(name, by, samples, f"{mean}") for _, name, by, samples, mean in TABLE_1]
    rows.append((card.about.title, "", f"{card.facts.samples:,}", f"{card.mean_characters:.1f}"))
    return ("data", "captioned by", "samples", "characters on average"), rows


def lengths(card: Card) -> tuple[Sequence[str], Rows]:
    """Characters and words of answers."""
    rows: Rows = []
    for unit, counts, mean in (
        ("characters", card.facts.characters, card.mean_characters),
        ("words", card.facts.words, card.mean_words),
    ):
        at = [quantile(counts, share) for share in (0, 0.05, 0.5, 0.95, 1)]
        rows.append((unit, f"{mean:,.1f}", *(f"{LONGEST:,} or more" if one >= LONGEST else f"{one:,}" for one in at)))
    return ("of an answer", "mean", "shortest", "5 of 100 below", "median", "95 of 100 below", "longest"), rows


def counts(card: Card) -> tuple[Sequence[str], Rows]:
    """Answers and pictures of a sample."""
    facts = card.facts
    numbers = sorted({*_few(facts.turns), *_few(facts.pictures)})
    rows: Rows = [(f"{number}", f"{facts.turns[number]:,}", f"{facts.pictures[number]:,}") for number in numbers[:12]]
    if len(numbers) > 12:
        rest = [sum(count for number, count in one.items() if number > numbers[11]) for one in (facts.turns, facts.pictures)]
        rows.append((f"more than {numbers[11]}", *(f"{one:,}" for one in rest)))
    return ("number", "samples with so many answers", "samples with so many pictures"), rows


def pictures(facts: Facts) -> tuple[Sequence[str], Rows]:
    """Formats, and what their sizes are."""
    rows: Rows = [(form, f"{count:,}") for form, count in sorted(facts.formats.items(), key=lambda told: (-told[1], told[0]))]
    if facts.widths:
        rows += [(f"{shape}", f"{facts.shapes[shape]:,}") for shape in ("wide", "tall", "square") if facts.shapes[shape]]
        for name, sides in (("width", facts.widths), ("height", facts.heights)):
            low, middle, high = (quantile(sides, share) for share in (0, 0.5, 1))
            rows.append((f"{name} in pixels: least, median, most", f"{low:,}, {middle:,}, {high:,}"))
        rows.append(("bytes of a picture on average", f"{facts.bytes / sum(facts.widths.values()):,.0f}"))
    return ("pictures, each as often as it is shown", ""), rows


def spoken(tops: Tops, samples: int, name: str) -> tuple[Sequence[str], Rows]:
    """The most frequent words of a kind."""
    rows: Rows = [(word, f"{count:,}", f"{count / samples:.1%}") for word, count in tops.first(WORDS, least=2)]
    return (name, "samples", "share"), rows


def _few(numbers: Mapping[int, int]) -> list[int]:
    return [number for number, count in numbers.items() if count]
