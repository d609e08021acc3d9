"""What is trained on: examples that can be asked for by number, wherever they are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image

from pargo_mllm.errors import UserError

Conversation = list[dict[str, Any]]

# what a picture counts in a hint of length, in characters of text: about what its tokens would spell
PICTURE_LENGTH = 1200


class CorpusError(UserError):
    """A corpus, or one record of it, that is not what it should be; the message names it and says what is wrong."""


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
    """

    name: str
    conversations: tuple[Conversation, ...]
    pictures: tuple[Callable[[], Image.Image], ...] = ()
    features: tuple[Callable[[], torch.Tensor], ...] | None = None
    kinds: tuple[str, ...] | None = None


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
    def skipped(self) -> Counter[str]:
        """Entries that were left out when it was opened, counted by reason."""

    def __len__(self) -> int:
        """The sum of the parts."""

    def __getitem__(self, index: int) -> Example:
        """Example ``index``. Raises :class:`CorpusError` for a damaged record."""

    def length_hint(self, index: int) -> int:
        """About how long example ``index`` is (any unit, the same for the whole corpus), without opening a picture."""

    def settings(self) -> dict[str, Any]:
        """What the content depends on, as JSON: a run goes on only with the same."""
