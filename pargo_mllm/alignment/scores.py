"""How well patches and words agree: the cosine of tokens and their labels' words, and how often the nearest word is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.rows import rows_of, unit_rows


@dataclass(frozen=True)
class WordScores:
    """Of all tokens that were looked at.

    Args:
        tokens: with a label; figures below are over these.
        unlabelled: without any.
        alignment: the mean cosine of a token and that of its labels' words which lies closest.
        accuracy: the share whose nearest word, of all words of the set, is one of its labels, or has the vector of one.
        class_mean: the same averaged over labels, each over its own tokens: common things do not count more.
        most_frequent: the accuracy of saying the most frequent label always.
        chance: the accuracy of saying any word of the set.
        by_label: of each label that a token has, tokens that have it and how many of them are right.
    """

    tokens: int
    unlabelled: int
    alignment: float
    accuracy: float
    class_mean: float
    most_frequent: float
    chance: float
    by_label: dict[str, tuple[int, int]]


class WordScoring:
    """Scores of tokens that come picture by picture.

    Args:
        names: of the set's labels.
        vectors: ``[labels, C]``, each label's word (:meth:`Spelling.vectors`).
        mean: ``[C]``, taken from tokens and words first; none by default.

    Raises:
        AlignmentError: for vectors or a mean that are not finite.
        ValueError: for names that come twice, or are not as many as vectors.
    """

    def __init__(self, names: Sequence[str], vectors: torch.Tensor, mean: torch.Tensor | None = None):
        if isinstance(names, str) or len(set(names)) != len(names):
            raise ValueError(f"names={names!r:.200}: a list of names, none twice, belongs here.")
        rows = rows_of(vectors, "vectors")
        if len(names) != len(rows) or vectors.dim() != 2:
            raise ValueError(f"{len(names)} names and vectors {list(vectors.shape)}; give [{len(names)}, C].")
        if mean is not None and rows_of(mean, "mean").shape != (1, rows.shape[1]):
            raise ValueError(f"mean {list(mean.shape)} does not fit words {rows.shape[1]} wide; give [{rows.shape[1]}].")
        self.names, self.mean = tuple(names), None if mean is None else mean.flatten()
        self.words = unit_rows(rows, self.mean)
        # words of one direction are one word: a token that is nearest to one is nearest to all
        self._alike = torch.unique(self.words.float(), dim=0, return_inverse=True)[1]
        self._tokens = self._unlabelled = self._right = 0
        self._closeness = self._chance = 0.0
        self._of_label, self._right_of_label, self._right_by_saying = torch.zeros(3, len(names), dtype=torch.int64)

    @property
    def width(self) -> int:
        """Of the tokens that can be compared: features of another width, before a projector, cannot."""
        return self.words.shape[1]

    @property
    def sums(self) -> tuple[int, float, int]:
        """Tokens with a label so far, the sum of their cosines to the closest of these, and how many are right: what a picture
        adds is the difference."""
        return self._tokens, self._closeness, self._right

    @torch.no_grad()
    def add(self, tokens: torch.Tensor, labels: torch.Tensor) -> None:
        """Take in tokens ``[..., T, C]`` and what each shows ``[..., T, labels]``, more than 0 for its labels
        (:func:`~pargo_mllm.alignment.labels.token_labels`).

        A token of which nothing is left, all zeros or the mean, is near to no word, and never right.

        Raises:
            AlignmentError: for tokens or labels that are not finite, or a name whose vector has no direction.
            ValueError: for other sizes than those of the words, or where there are none.
        """
        if not self.names:
            raise ValueError("there are no names to compare tokens with; give one at least.")
        nowhere = ~self.words.any(dim=1)
        if nowhere.any():
            named = [name for name, none in zip(self.names, nowhere.tolist(), strict=True) if none]
            raise AlignmentError(
                f"the vector of {named[0]!r} ({len(named)} of {len(self.names)} words) is zero or the mean, and has no "
                "direction; leave such words out."
            )
        rows, has = rows_of(tokens), rows_of(torch.as_tensor(labels).float(), "labels").to(tokens.device) > 0
        if rows.shape[1] != self.width or has.shape != (len(rows), len(self.names)):
            shapes = f"tokens {list(tokens.shape)} and labels {list(labels.shape)}"
            raise ValueError(f"{shapes} do not fit {len(self.names)} words {self.width} wide.")
        labelled = has.any(dim=1)
        rows, has = rows[labelled], has[labelled]
        self._unlabelled += int((~labelled).sum())
        if not len(rows):
            return
        directions = unit_rows(rows, self.mean)
        cosines = directions @ self.words.to(rows.device).T
        alike = self._alike.to(rows.device)
        groups = torch.zeros_like(has, dtype=torch.int32).index_add_(1, alike, has.int())
        good = groups[:, alike] > 0
        right = good.gather(1, cosines.argmax(dim=1, keepdim=True))[:, 0] & directions.any(dim=1)
        self._tokens += len(rows)
        self._right += int(right.sum())
        self._closeness += float(cosines.where(has, -torch.inf).amax(dim=1).sum())
        self._chance += float(good.double().mean(dim=1).sum())
        self._of_label += has.sum(dim=0).cpu()
        self._right_of_label += (has & right[:, None]).sum(dim=0).cpu()
        self._right_by_saying += good.sum(dim=0).cpu()

    def scores(self) -> WordScores:
        """Of all tokens so far.

        Raises:
            AlignmentError: if none of them had a label.
        """
        if not self._tokens:
            raise AlignmentError(
                f"none of the {self._unlabelled} tokens has a label: their patches show none of the things that are named, or "
                "less of one than the threshold; give data with regions, or a lower threshold."
            )
        seen = self._of_label > 0
        return WordScores(
            tokens=self._tokens,
            unlabelled=self._unlabelled,
            alignment=self._closeness / self._tokens,
            accuracy=self._right / self._tokens,
            class_mean=float((self._right_of_label[seen] / self._of_label[seen]).double().mean()),
            most_frequent=int(self._right_by_saying.max()) / self._tokens,
            chance=self._chance / self._tokens,
            by_label={
                name: (int(count), int(right))
                for name, count, right in zip(self.names, self._of_label, self._right_of_label, strict=True)
                if count
            },
        )
