"""A few pictures looked at closely: the words of every token, and what each patch says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.lens import LogitLens, Said
from pargo_mllm.alignment.looking import Looked, as_seen
from pargo_mllm.alignment.pursuit import Decomposition, matching_pursuit
from pargo_mllm.alignment.segmentation import COVERED, said_at
from pargo_mllm.alignment.vocabulary import Vocabulary

# words of a lens, and pixels of a picture that people look at
_LENS, _SIDE = 5, 336
# tokens of a patch that are shown
_READERS = 3


@dataclass(frozen=True)
class Token:
    """What a token says.

    Args:
        words: of its decomposition, each with its coefficient.
        cosine, explained: of all of them together.
        lens: what the head finds likeliest, each with its probability.
    """

    words: tuple[tuple[str, float], ...]
    cosine: float
    explained: float
    lens: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Close:
    """A picture with one model's words.

    Args:
        picture: as the encoder sees it.
        grid: rows and columns of patches.
        tokens: in the order in which the language model gets them.
        readers: of each patch, the tokens that read it, those with the largest shares first, at most three.
        local: of each token, whether it reads a part of the picture of its own.
        there: of each patch, the names of what covers it.
        said: of each patch, the word of the set whose map is highest there; empty where there is no set.
        maps: of words that the picture shows, ``[rows, columns]``.
        sources: where each token comes from, by method: ``[tokens, patches]``, rows sum to 1.
    """

    number: int
    name: str
    picture: Image.Image
    grid: tuple[int, int]
    tokens: tuple[Token, ...]
    readers: tuple[tuple[int, ...], ...]
    local: tuple[bool, ...]
    there: tuple[tuple[str, ...], ...]
    said: tuple[str, ...] = ()
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    sources: dict[str, np.ndarray] = field(default_factory=dict)


class Decomposed:
    """Decomposes tokens of one model and keeps what came of all of them.

    Args:
        num_words: of a token.
        non_negative: see :func:`pargo_mllm.alignment.pursuit.matching_pursuit`.
    """

    def __init__(self, model: Any, vocabulary: Vocabulary, num_words: int, non_negative: bool):
        self.vocabulary, self.num_words, self.non_negative = vocabulary, num_words, non_negative
        self._lens_words = min(_LENS, int(vocabulary.is_word.sum()))
        self.lens: LogitLens | None = None
        self.no_lens: str | None = None
        try:
            self.lens = LogitLens(model)
        except AlignmentError as error:
            self.no_lens = str(error)
        self._sums = torch.zeros(2, num_words, dtype=torch.float64)
        self._different, self._lens_first, self._tokens = 0, 0, 0

    def add(self, tokens: torch.Tensor) -> tuple[Token, ...]:
        """The words of ``[tokens, C]``, as the language model gets them."""
        found = matching_pursuit(tokens, self.vocabulary, self.num_words, non_negative=self.non_negative)
        likely = None if self.lens is None else self.lens.words(tokens, self._lens_words, self.vocabulary.is_word)
        self._sums += torch.stack((found.cosine.double().sum(0), found.explained.double().sum(0))).cpu()
        self._different += int(found.num_words.sum())
        if likely is not None:
            self._lens_first += int((likely.words[:, 0] == found.words[:, 0]).sum())
        self._tokens += len(tokens)
        return tuple(self._token(found, likely, index) for index in range(len(tokens)))

    def told(self) -> dict[str, Any]:
        """Means over all tokens, as JSON; ``cosine`` and ``explained`` after each word."""
        count = max(1, self._tokens)
        cosine, explained = (self._sums / count).tolist()
        return {
            "tokens": self._tokens,
            "of_words": int(self.vocabulary.is_word.sum()),
            "non_negative": self.non_negative,
            "centred": True,
            "num_words": self._different / count,
            "cosine": cosine,
            "explained": explained,
            "lens_says_the_first": None if self.lens is None else self._lens_first / count,
        }

    def _token(self, found: Decomposition, likely: Said | None, index: int) -> Token:
        words = zip(found.words[index].tolist(), found.coefficients[index].tolist(), strict=True)
        lens: list[tuple[int, float]] = []
        if likely is not None:
            lens = list(zip(likely.words[index].tolist(), likely.probabilities[index].tolist(), strict=True))
        return Token(
            tuple((self.vocabulary.text(word), weight) for word, weight in words if word >= 0),
            float(found.cosine[index, -1]),
            float(found.explained[index, -1]),
            tuple((self.vocabulary.text(word), probability) for word, probability in lens),
        )


def close_look(
    looked: Looked,
    tokens: tuple[Token, ...],
    shares: torch.Tensor,
    local: torch.Tensor,
    grid: tuple[int, int],
    words: Sequence[str],
    maps: torch.Tensor | None,
    sources: dict[str, np.ndarray],
) -> Close:
    """Put together what was found of one picture.

    Args:
        shares: ``[tokens, patches]``.
        local: bool ``[tokens]``.
        words, maps: of the set; ``[words, rows, columns]``.
        sources: see :class:`Close`.
    """
    patches = grid[0] * grid[1]
    covered = (looked.coverage[:, -patches:] >= COVERED).cpu()
    there = tuple(
        tuple(name for name, row in zip(looked.names, covered, strict=True) if row[patch]) for patch in range(patches)
    )
    order = shares.argsort(dim=0, descending=True, stable=True)[:_READERS]
    readers = tuple(tuple(token for token in order[:, patch].tolist() if shares[token, patch] > 0) for patch in range(patches))
    said: tuple[str, ...] = ()
    shown: dict[str, np.ndarray] = {}
    if maps is not None:
        said = tuple(words[index] for index in said_at(maps, grid).ravel().tolist())
        shown = {word: maps[words.index(word)].cpu().numpy() for word in looked.names if word in words}
    return Close(
        looked.shown.number,
        looked.shown.name,
        as_seen(looked.shown.picture, looked.window, _SIDE),
        grid,
        tokens,
        readers,
        tuple(local.tolist()),
        there,
        said,
        shown,
        sources,
    )
