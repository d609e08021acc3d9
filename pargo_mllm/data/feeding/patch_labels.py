"""Which words are true of a picture's tokens: what the patch loss needs of an example, and of a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

# the key of an item and of a micro-batch; no argument of the model
PATCHES = "patches"


@dataclass(frozen=True)
class PatchLabels:
    """Labels of the tokens of an example's pictures. ``images`` are its pictures, or their tiles where each tile becomes tokens
    of its own.

    Args:
        words: of each label, the tokens that spell it.
        weights: fp32 ``[images, tokens, labels]``, how much each label says of each token; rows sum to 1, or to 0 where none
            does.
        coverage: fp32 ``[images, labels, n_v]``, how much of each feature's patch each label covers, and
        read: how many tokens of an image read it by attention, which alone says what their labels are: the last ones. Without
            such tokens no coverage is needed.
        unspelled: labels that the tokenizer has no tokens for; they are no labels.
        misfits: why what is said of a picture is of another shape than it; it has no labels.
    """

    words: tuple[tuple[int, ...], ...]
    weights: torch.Tensor
    coverage: torch.Tensor | None = None
    read: int = 0
    unspelled: tuple[str, ...] = ()
    misfits: tuple[str, ...] = ()

    def counted(self) -> int:
        """How many tokens the mean of the loss is over: those with a label, and those whose attention decides."""
        images = len(self.weights) if self.words else 0
        return int((self.weights.sum(-1) > 0).sum()) + images * self.read


def join_patch_labels(parts: Sequence[PatchLabels], choices: Sequence[tuple[int, ...]] = ()) -> dict[str, Any]:
    """What a micro-batch holds of its examples, the images one behind the other; a word in several of them is there once.

    Args:
        choices: words that are there too, whether anything is called so or not: the first ones.

    Returns:
        ``weights`` fp32 ``[images, tokens, most labels]``, ``labels`` int64 ``[images, most labels]``: which of the words, 0
        where there is none, and no weight; ``ids`` and ``starts`` int64: the tokens of all words, and where each word begins
        among them; ``counted`` int64, a scalar; ``coverage`` fp32 ``[images, most labels, most features]`` where some tokens'
        attention decides; ``unspelled`` and ``misfits``.
    """
    words = {word: place for place, word in enumerate(choices)}
    labels = [[words.setdefault(word, len(words)) for word in part.words] for part in parts]
    most = max(map(len, labels))
    joined = {
        "weights": torch.cat([_padded(part.weights, part.weights.shape[1], most) for part in parts]),
        "labels": torch.tensor(
            [own + [0] * (most - len(own)) for part, own in zip(parts, labels, strict=True) for _ in part.weights],
            dtype=torch.int64,
        ).view(sum(len(part.weights) for part in parts), most),
        "ids": torch.tensor([token for word in words for token in word], dtype=torch.int64),
        "starts": torch.tensor([0, *map(len, words)], dtype=torch.int64).cumsum(0)[:-1],
        "counted": torch.tensor(sum(part.counted() for part in parts)),
        "unspelled": tuple(dict.fromkeys(word for part in parts for word in part.unspelled)),
        "misfits": tuple(dict.fromkeys(why for part in parts for why in part.misfits)),
    }
    covered = [part.coverage for part in parts if part.coverage is not None]
    if covered:
        features = max(coverage.shape[-1] for coverage in covered)
        joined["coverage"] = torch.cat([_padded(coverage, most, features) for coverage in covered])
    return joined


def _padded(tensor: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """``[images, r, c]`` with zeros up to ``[images, rows, columns]``."""
    return torch.nn.functional.pad(tensor, (0, columns - tensor.shape[2], 0, rows - tensor.shape[1]))
