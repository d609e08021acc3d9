"""What answers speak of, by simple counts of English words; the page says how they are counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

# different words that are kept, and how many there may be before rare ones are dropped
KEPT, MOST = 20_000, 60_000
# characters of an answer that are looked at, and of a word
_LOOKED, _LONGEST = 100_000, 30

METHOD = (
    "Counted are samples whose answers hold a word, once each, in small letters; numbers, function words and words that every "
    "description has (image, picture, visible) are left out. Pairs are two such words side by side. Things named are words "
    "that stand where English names a thing: the last word behind a, the, his, two, … and in front of a function word, a form "
    "in -ing or -ed, or a mark. No tagger was asked: some are none, and plurals are counted apart. What one "
    "sample alone holds is not listed."
)

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[^\w\s]|\d[\d.,]*")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_BEFORE_THINGS = _set(
    "a an the his her its their my your our this that these those some several many another each every two three four five "
    "six seven eight nine ten no"
)
_FUNCTION = _BEFORE_THINGS | _set(
    "about above across after against all along also although am among amid and any are around as at away back be because been "
    "before behind being below beneath beside besides between both but by can cannot could did do does doing down during "
    "either else even ever few for from front further had has have having he hers herself him himself how however i if in "
    "inside into is it itself just less like made may me might mine more most much must near next nor not of off on once one "
    "only onto or other others out outside over own per perhaps quite rather same she should since so still such than them "
    "themselves then there they through throughout to together too toward towards under until up upon us various very via was "
    "we were what when where whether which while who whom whose why will with within without would yes yet you yours it's "
    "don't doesn't isn't aren't"
)
# of every description: they say nothing of what is shown
_EMPTY = _set(
    "image picture photo photograph scene shows show showing shown depicts depicting features featuring captures visible seen "
    "appears appear appearing suggests suggesting adds adding overall background foreground left right top bottom side center "
    "centre middle part view setting atmosphere describe described"
)


@dataclass
class Tops:
    """Counts of the most frequent of many; memory is bounded.

    Args:
        counts: of those that are kept.
        missed: at most so many are missing from any count.
    """

    counts: Counter[str] = field(default_factory=Counter)
    missed: int = 0

    def add(self, words: set[str]) -> None:
        """One sample's words."""
        self.counts.update(words)
        self._cut(MOST)

    def merge(self, other: Tops) -> None:
        """What was counted elsewhere."""
        self.counts.update(other.counts)
        self.missed += other.missed
        self._cut(MOST)

    def cut(self) -> None:
        """Keep what another process is told."""
        self._cut(KEPT)

    def first(self, number: int, least: int = 1) -> list[tuple[str, int]]:
        """The most frequent, ``least`` times at least; of equally frequent ones those first in the alphabet."""
        frequent = (told for told in self.counts.items() if told[1] >= least)
        return sorted(frequent, key=lambda told: (-told[1], told[0]))[:number]

    def _cut(self, most: int) -> None:
        if len(self.counts) > most:
            kept = self.first(KEPT + 1)
            self.missed += kept.pop()[1]
            self.counts = Counter(dict(kept))


@dataclass
class Spoken:
    """What is spoken of: single words, pairs of them, and what stands where things are named."""

    words: Tops = field(default_factory=Tops)
    pairs: Tops = field(default_factory=Tops)
    things: Tops = field(default_factory=Tops)

    def add(self, answers: list[str]) -> None:
        """A sample's answers."""
        said = [_WORD.findall(answer[:_LOOKED].lower()) for answer in answers]
        self.words.add({word for tokens in said for word in tokens if _has_content(word)})
        self.pairs.add({pair for tokens in said for pair in _pairs(tokens)})
        self.things.add({thing for tokens in said for thing in _things(tokens)})

    def merge(self, other: Spoken) -> None:
        """What was counted elsewhere."""
        for mine, theirs in zip(self.all(), other.all(), strict=True):
            mine.merge(theirs)

    def all(self) -> tuple[Tops, Tops, Tops]:
        """The three counts."""
        return self.words, self.pairs, self.things


def _has_content(word: str) -> bool:
    return 1 < len(word) <= _LONGEST and word[0].isalpha() and word not in _FUNCTION and word not in _EMPTY


def _pairs(tokens: list[str]) -> Iterator[str]:
    for first, second in pairwise(tokens):
        if _has_content(first) and _has_content(second):
            yield f"{first} {second}"


def _things(tokens: list[str]) -> Iterator[str]:
    last: str | None = None
    # words behind the one that names a thing's beginning; None where no thing is being named
    behind: int | None = None
    for token in [*tokens, "."]:
        is_form = bool(behind) and len(token) > 4 and token.endswith(("ing", "ed"))
        ends = not token[0].isalpha() or token in _FUNCTION or is_form
        if ends:
            if behind and last is not None and _has_content(last):
                yield last
            behind, last = (0 if token in _BEFORE_THINGS else None), None
        elif behind is not None:
            behind, last = behind + 1, token
