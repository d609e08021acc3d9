"""Zero-shot segmentation: where in a picture the tokens speak a word, against the masks of what is called so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate, normalize

from pargo_mllm.alignment.errors import AlignmentError, check_finite
from pargo_mllm.data.regions import WHOLE, Region, Window, label_coverage

# of a patch, or of a pixel of what the encoder sees, what a mask must cover to hold it
COVERED = 0.5
# words whose maps are stretched to pixels at once
_AT_ONCE = 32


@torch.no_grad()
def word_maps(
    tokens: torch.Tensor, shares: torch.Tensor, vectors: torch.Tensor, mean: torch.Tensor | None = None
) -> torch.Tensor:
    """How much each patch speaks each word: fp32 ``[words, n_v]``.

    Our choice: the cosine of every token's vector with the word's, both centred where a ``mean`` is given; a patch has the mean
    of the tokens that read it, weighed by their shares in it. A patch that no token reads has 0.

    Args:
        tokens: ``[tokens, C]``, what the language model gets of a picture.
        shares: ``[tokens, n_v]``, what each token reads; a token of none speaks nowhere.
        vectors: ``[words, C]``.
        mean: ``[C]``, of the language model's embeddings.

    Raises:
        AlignmentError: for shapes that do not fit, and numbers that are not finite.
    """
    width = tokens.shape[-1]
    fits = tokens.dim() == shares.dim() == vectors.dim() == 2 and len(tokens) == len(shares) and vectors.shape[1] == width
    if not fits or (mean is not None and mean.shape != (width,)):
        given = [list(one.shape) for one in (tokens, shares, vectors) + (() if mean is None else (mean,))]
        raise AlignmentError(f"{given} must be [tokens, C], [tokens, n_v], [words, C] and, where a mean is given, [C].")
    for what, rows in (("tokens", tokens), ("shares", shares), ("words", vectors), ("the mean", mean)):
        if rows is not None:
            check_finite(rows if rows.dim() == 2 else rows[None], what)
    cosines = (_directions(tokens, mean) @ _directions(vectors, mean).to(tokens.device).T).float()
    weights = shares.to(cosines)
    return cosines.T @ (weights / weights.sum(0).clamp(min=torch.finfo(torch.float32).tiny))


def _directions(rows: torch.Tensor, mean: torch.Tensor | None) -> torch.Tensor:
    """Rows at length 1, fp64, whatever their length is; zeros stay zeros."""
    rows = rows.double() if mean is None else rows.double() - mean.double().to(rows.device)
    largest = rows.abs().amax(dim=-1, keepdim=True)
    return normalize(rows / largest.where(largest > 0, 1.0), dim=-1)


def said_at(maps: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Which word a map says at each pixel, against all the others: int64 ``[height, width]``.

    No threshold is chosen, so that none can be tuned: the word with the largest value (of equals, the first) has the pixel.
    Values between the middles of patches are interpolated bilinearly.

    Args:
        maps: ``[words, rows, columns]``.
        size: height and width.

    Raises:
        AlignmentError: for maps of another shape or of no word, and numbers that are not finite.
    """
    maps = _checked(maps)
    best: torch.Tensor | None = None
    said = torch.zeros(size, dtype=torch.int64, device=maps.device)
    for first in range(0, len(maps), _AT_ONCE):
        part = maps[None, first : first + _AT_ONCE]
        stretched = part[0] if part.shape[-2:] == size else interpolate(part, size, mode="bilinear")[0]
        highest, index = stretched.max(dim=0)
        if best is None:
            best, said = highest, index
        else:
            said = torch.where(highest > best, index + first, said)
            best = torch.maximum(best, highest)
    return said.cpu().numpy()


def _checked(maps: torch.Tensor) -> torch.Tensor:
    """Maps in fp32 (or fp64), without a gradient."""
    if maps.dim() != 3 or not maps.numel():
        raise AlignmentError(f"maps of shape {list(maps.shape)} must be [words, rows, columns], none of them 0.")
    check_finite(maps.flatten(1), "maps")
    return maps.detach() if maps.dtype == torch.float64 else maps.detach().float()


@dataclass(frozen=True)
class Overlap:
    """What words and masks have in common on one raster, summed over pictures: float64 ``[words]`` each, in pictures.

    Args:
        both: where the word is said and its mask is.
        said, masked: where either is.
        said_inside: where the word is said within any mask of the picture.
        area, inside: of all pictures, and of any mask in them.
    """

    both: np.ndarray
    said: np.ndarray
    masked: np.ndarray
    said_inside: np.ndarray
    area: float = 0.0
    inside: float = 0.0

    @classmethod
    def of(cls, said: np.ndarray, masks: Mapping[int, np.ndarray], words: int) -> Overlap:
        """Of one picture.

        Args:
            said: int ``[height, width]``.
            masks: of the words that the picture shows, bool ``[height, width]``.
        """
        labelled = np.zeros(said.shape, dtype=bool)
        both, masked = np.zeros(words), np.zeros(words)
        for word, mask in masks.items():
            labelled |= mask
            both[word], masked[word] = (mask & (said == word)).sum(), mask.sum()
        counts = (np.bincount(said[where].ravel(), minlength=words) for where in (..., labelled))
        everywhere, inside = (count / said.size for count in counts)
        return cls(both / said.size, everywhere, masked / said.size, inside, 1.0, float(labelled.mean()))

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def iou(self, labelled: bool = False) -> np.ndarray:
        """Of each word, NaN for one without a mask: float64 ``[words]``.

        Args:
            labelled: count only what lies in the mask of any word: what has no name can be called nothing right.
        """
        said = self.said_inside if labelled else self.said
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.masked > 0, self.both / (said + self.masked - self.both), np.nan)

    def most_frequent(self, labelled: bool = False) -> float:
        """The mean over the words of a map that says the word with the largest masks, everywhere."""
        shown = self.masked > 0
        area = self.inside if labelled else self.area
        return float(self.masked.max() / area / shown.sum()) if shown.any() and area else 0.0


@dataclass(frozen=True)
class PictureScore:
    """Of one picture, the means over the words that it shows; None where none of them can be judged.

    Args:
        iou: of pixels said and masked.
        whole: of the same masks with maps that say their word everywhere.
        auc, ap: of patches in the mask and beside it, ranked by the word's map.
        ap_chance: of a map that knows nothing: the share of patches in the mask.
    """

    iou: float | None
    whole: float | None
    auc: float | None
    ap: float | None
    ap_chance: float | None


class Segmentation:
    """Scores words' maps against masks, a picture at a time.

    Args:
        words: what may be said.
        side: pixels of what the encoder sees, along each side.

    Raises:
        AlignmentError: for a word that comes twice, and a side below 1.
    """

    def __init__(self, words: Sequence[str], side: int):
        if isinstance(words, str) or len(set(words)) < len(words):
            raise AlignmentError(f"words={words!r} must be a list of names, none twice.")
        if side < 1:
            raise AlignmentError(f"side={side} must be at least 1: the pixels of what the encoder sees, along each side.")
        self.words, self.side = tuple(words), side
        self._number = {word: index for index, word in enumerate(self.words)}
        nothing = np.zeros(len(self.words))
        self.grid = self.pixels = Overlap(nothing, nothing, nothing, nothing)
        self.pictures: list[PictureScore | None] = []

    def add(self, maps: torch.Tensor, regions: Sequence[Region], window: Window = WHOLE) -> PictureScore | None:
        """Score one picture; None for one that shows none of the words.

        Args:
            maps: ``[words, rows, columns]``.
            window: what the patches show together of the picture.

        Raises:
            AlignmentError: for maps of another number of words, and numbers that are not finite.
        """
        maps = _checked(maps)
        if len(maps) != len(self.words):
            raise AlignmentError(f"maps of {len(maps)} words must be of {len(self.words)}, in the order of the words.")
        rows, columns = maps.shape[1:]
        known = [region for region in regions if region.names[0] in self._number]
        patches, pixels = (self._masks(known, size, window) for size in ((rows, columns), (self.side, self.side)))
        scored = None
        if pixels:
            self.grid += Overlap.of(said_at(maps, (rows, columns)), patches, len(self.words))
            overlap = Overlap.of(said_at(maps, (self.side, self.side)), pixels, len(self.words))
            self.pixels += overlap
            ranked = [ranking(maps[word].cpu().numpy().ravel(), mask.ravel()) for word, mask in patches.items()]
            ranked = [one for one in ranked if one is not None]
            auc, ap, chance = (float(np.mean(column)) for column in zip(*ranked, strict=True)) if ranked else (None,) * 3
            shown = list(pixels)
            scored = PictureScore(float(overlap.iou()[shown].mean()), float(overlap.masked[shown].mean()), auc, ap, chance)
        self.pictures.append(scored)
        return scored

    def told(self) -> dict[str, Any]:
        """What came of all pictures, as JSON; see docs/alignment.md."""
        scored = [one for one in self.pictures if one is not None]
        shown = np.flatnonzero(self.pixels.masked > 0)
        per_word = self.pixels.iou(), self.pixels.iou(labelled=True), self.grid.iou()
        return {
            "pictures": len(scored),
            "words": len(self.words),
            "words_shown": len(shown),
            "raster": self.side,
            "pixels": _means(self.pixels),
            "grid": _means(self.grid),
            "picture_iou": _mean(one.iou for one in scored),
            "picture_iou_of_the_whole_picture": _mean(one.whole for one in scored),
            "auc": _mean(one.auc for one in scored),
            "ap": _mean(one.ap for one in scored),
            "ap_by_chance": _mean(one.ap_chance for one in scored),
            "by_word": {
                self.words[word]: {
                    "iou": float(per_word[0][word]),
                    "iou_labelled": float(per_word[1][word]),
                    "iou_grid": None if np.isnan(per_word[2][word]) else float(per_word[2][word]),
                    "area": float(self.pixels.masked[word] / self.pixels.area),
                }
                for word in shown.tolist()
            },
        }

    def _masks(self, regions: Sequence[Region], size: tuple[int, int], window: Window) -> dict[int, np.ndarray]:
        covered = label_coverage(regions, size, window)
        masks = {self._number[name]: cover >= COVERED for name, cover in covered.items()}
        return {word: mask for word, mask in masks.items() if mask.any()}


def ranking(values: np.ndarray, inside: np.ndarray) -> tuple[float, float, float] | None:
    """How well values tell what is inside from what is not: area under the ROC curve, average precision, and the latter by
    chance; None where all or nothing is inside. Ties count half in the first, and are one threshold in the second.

    Args:
        values: ``[n]``.
        inside: bool ``[n]``.
    """
    positives = int(inside.sum())
    if positives in (0, len(inside)):
        return None
    _, level, counts = np.unique(-values, return_inverse=True, return_counts=True)
    hits = np.bincount(level, inside)
    found, passed = hits.cumsum(), counts.cumsum()
    misses = counts - hits
    auc = float((hits * (misses.sum() - misses.cumsum() + misses / 2)).sum() / positives / misses.sum())
    return auc, float((hits * found / passed).sum() / positives), positives / len(inside)


def _means(overlap: Overlap) -> dict[str, float | None]:
    return {
        "mean_iou": _mean(overlap.iou()),
        "mean_iou_labelled": _mean(overlap.iou(labelled=True)),
        "most_frequent": overlap.most_frequent(),
        "most_frequent_labelled": overlap.most_frequent(labelled=True),
    }


def _mean(values: Any) -> float | None:
    kept = [float(value) for value in values if value is not None and not np.isnan(value)]
    return float(np.mean(kept)) if kept else None
