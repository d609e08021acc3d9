"""What is trained on: examples that can be asked for by number, wherever they are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from PIL import Image

from pargo_mllm.data.regions import Region
from pargo_mllm.errors import UserError

Conversation = list[dict[str, Any]]

# what a picture counts in a hint of length, in characters of text: about what its tokens would spell
PICTURE_LENGTH = 1200
# characters of a stranger's text that a message repeats
_SHOWN = 200


class CorpusError(UserError):
    """A corpus, or one record of it, that is not what it should be; the message names it and says what is wrong."""


class OtherShape(CorpusError):
    """What is said to be where in a picture is said of one of another shape."""


@dataclass(frozen=True)
class Example:
    """Conversations about the same pictures.

    Args:
        name: what a message calls it.
        conversations: messages in transformers' form, a picture as the part ``{"type": "image"}``. Several ones begin with the
            same pictures and do not see each other.
        pictures: open the RGB pictures in the order in which the text shows them; each is opened only when it is called, and
            raises :class:`pargo_mllm.data.pictures.PictureError` for a file that is no usable picture.
        features: where a frozen encoder has run already: what it gave for each picture, ``[tiles, n_v, c]``.
        kinds: of what is asked in each conversation, where that is known: accuracy is counted by kind.
        regions: of each picture, what is where in it, or None where nobody says; :class:`OtherShape` is raised where that is
            said of a picture of another shape. None where nobody says anything of any picture.
    """

    name: str
    conversations: tuple[Conversation, ...]
    pictures: tuple[Callable[[], Image.Image], ...] = ()
    features: tuple[Callable[[], torch.Tensor], ...] | None = None
    kinds: tuple[str, ...] | None = None
    regions: tuple[Callable[[], tuple[Region, ...] | None], ...] | None = None


@dataclass(frozen=True)
class Tally:
    """What became of all entries of one kind that a source holds: ``used + other_side + skipped = entries``.

    Args:
        entries: how many there are.
        used: how many of them this side of the split uses.
        other_side: how many the other side uses.
        skipped: those that neither uses, by reason.
    """

    entries: int
    used: int
    other_side: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def all_skipped(tallies: Mapping[str, Tally]) -> Counter[str]:
    """What was left out of all kinds, by reason."""
    return sum((tally.skipped for tally in tallies.values()), Counter())


def counted(skipped: Mapping[str, int]) -> str:
    """The reasons with their counts, for the end of a message; empty where there are none."""
    return "".join(f"; {count:,} skipped: {reason}" for reason, count in skipped.items())


def shown(text: str, most: int = _SHOWN) -> str:
    """A stranger's text as a message may repeat it: one line of what a terminal can print, at most so many characters."""
    kept = text if len(text) <= most else f"{text[:most]}…"
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in kept)


def is_text(texts: Iterable[str]) -> bool:
    """Whether all of it is text: JSON can hold half a character (a lone surrogate), which no tokenizer reads."""
    try:
        return all(text.isascii() or text.encode() is not None for text in texts)
    except UnicodeEncodeError:
        return False


def about_image(prompt: str, answer: str) -> Conversation:
    """A conversation of one turn about one picture."""
    return [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


class Corpus(Protocol):
    """Examples by number. Reading one opens no other, so that any number of processes can read side by side."""

    @property
    def parts(self) -> Sequence[int]:
        """How many examples each of its parts (shards) holds; numbers run through the parts in order."""

    @property
    def tallies(self) -> Mapping[str, Tally]:
        """What became of every entry of its source when it was opened, by kind of entry ("records", "images", …)."""

    @property
    def skipped(self) -> Counter[str]:
        """Entries that were left out when it was opened, of all kinds, counted by reason."""

    def __len__(self) -> int:
        """The sum of the parts."""

    def __getitem__(self, index: int) -> Example:
        """Example ``index``. Raises :class:`CorpusError` for a damaged record."""

    def length_hint(self, index: int) -> int:
        """About how long example ``index`` is (any unit, the same for the whole corpus), without opening a picture."""

    def settings(self) -> dict[str, Any]:
        """What the content depends on, as JSON: a run goes on only with the same."""
