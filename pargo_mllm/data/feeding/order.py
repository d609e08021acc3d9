"""In which order examples are trained on: a pure function of a position, so that a run goes on from a number.

Nothing is kept but what the positions asked for last need; the order of a week is never laid out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction
from math import isfinite, lcm
from typing import Any

import numpy as np

WINDOW = 16
# positions that are mixed at once
BLOCK = 256
# what random numbers are for: each purpose has streams of its own
_PARTS, _EXAMPLES, _MIXTURE, _BATCHES = range(4)


class SampleOrder:
    """The order of a mixture of corpora: ``order[position]`` is (corpus, index) for every position from 0, without end.

    A corpus is read in epochs, each a new permutation of its examples. Its parts are permuted and then read ``window`` at a
    time, the examples of those parts shuffled together: reads stay in few files, and memory holds one window of a corpus.

    A stretch of :data:`BLOCK` positions holds of each corpus what its weight says, in random order. Counts are rounded such
    that errors never add up: before any stretch a corpus is at most ``ceil(log2(corpora)) / 2`` examples away from its exact
    share. Without weights, the first N positions of N examples visit each once, and so do the next N.

    Random numbers are raw PCG64 words, which NumPy keeps the same on every platform and in every version.

    Args:
        parts: for each corpus the number of examples of each of its parts.
        weights: for each corpus how often it is read, relative to the others; None for in proportion to its size.
        seed: not negative.
        window: how many parts are shuffled together.

    Raises:
        ValueError: for a corpus without examples, for weights that are not positive or not one a corpus, for a seed or a
            window out of range.
    """

    def __init__(
        self,
        parts: Sequence[Sequence[int]],
        weights: Sequence[float] | None,
        seed: int,
        window: int = WINDOW,
    ):
        if seed < 0:
            raise ValueError(f"seed={seed} must be at least 0.")
        if window < 1:
            raise ValueError(f"window={window} must be at least 1: so many parts are shuffled together.")
        if not parts:
            raise ValueError(f"parts={parts!r} has no corpus; give the parts of at least one.")
        self.seed = seed
        self._corpora = [_CorpusOrder(sizes, corpus, seed, window) for corpus, sizes in enumerate(parts)]
        sizes = [corpus.size for corpus in self._corpora]
        self._weights = sizes if weights is None else _whole(weights, len(sizes))
        # with weights no position is special; without, stretches begin anew with each visit to everything
        self._cycle = sum(sizes) if weights is None else BLOCK
        self._stretch = _Newest(self._make_stretch)

    def __getitem__(self, position: int) -> tuple[int, int]:
        """(corpus, index) at a position.

        Raises:
            IndexError: for a negative position.
        """
        if position < 0:
            raise IndexError(f"position={position} must be at least 0; an order has no end to count from.")
        start = position - position % self._cycle % BLOCK
        return self._stretch(start)[position - start]

    def _make_stretch(self, start: int) -> list[tuple[int, int]]:
        stop = start + min(BLOCK, self._cycle - start % self._cycle)
        before, after = _shares(start, self._weights), _shares(stop, self._weights)
        corpora = np.repeat(np.arange(len(before)), [b - a for a, b in zip(before, after, strict=True)])
        corpora = corpora[_permutation(len(corpora), self.seed, _MIXTURE, start)]
        indices = np.empty(len(corpora), dtype=np.int64)
        for number, corpus in enumerate(self._corpora):
            indices[corpora == number] = corpus.span(before[number], after[number])
        return list(zip(corpora.tolist(), indices.tolist(), strict=True))


class LengthGrouped:
    """An order in which the examples of a batch are about equally long.

    Of each ``batches * batch_size`` positions the examples stay the same; they are sorted by length, cut into batches, and
    the batches are permuted.

    Args:
        order: what is regrouped; its seed permutes the batches.
        lengths: ``lengths(corpus, index)`` is about how long an example is. Called for a whole group at once.
        batch_size: examples of a batch, over all ranks.
        batches: batches of a group.

    Raises:
        ValueError: for a number that is not positive.
    """

    def __init__(self, order: SampleOrder, lengths: Callable[[int, int], int], batch_size: int, batches: int):
        for name, value in (("batch_size", batch_size), ("batches", batches)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        self.seed = order.seed
        self._order, self._lengths = order, lengths
        self._batch_size, self._batches = batch_size, batches
        self._group = _Newest(self._make_group)

    def __getitem__(self, position: int) -> tuple[int, int]:
        """See :meth:`SampleOrder.__getitem__`."""
        if position < 0:
            raise IndexError(f"position={position} must be at least 0; an order has no end to count from.")
        group, place = divmod(position, self._batches * self._batch_size)
        return self._group(group)[place]

    def _make_group(self, group: int) -> list[tuple[int, int]]:
        size = self._batches * self._batch_size
        examples = [self._order[position] for position in range(group * size, (group + 1) * size)]
        lengths = np.array([self._lengths(*example) for example in examples])
        batches = np.argsort(lengths, kind="stable").reshape(self._batches, self._batch_size)
        mixed = batches[_permutation(self._batches, self.seed, _BATCHES, group)]
        return [examples[place] for place in mixed.ravel().tolist()]


class _CorpusOrder:
    """The endless order of one corpus: epoch after epoch."""

    def __init__(self, parts: Sequence[int], corpus: int, seed: int, window: int):
        self.sizes = np.asarray(parts, dtype=np.int64)
        if self.sizes.ndim != 1 or (self.sizes < 0).any() or not self.sizes.any():
            raise ValueError(f"parts[{corpus}] of {self.sizes.sum()} examples must be numbers from 0, not all of them 0.")
        self.size = int(self.sizes.sum())
        self._firsts = np.cumsum(self.sizes) - self.sizes
        self._corpus, self._seed, self._width = corpus, seed, window
        self._epoch = _Newest(self._make_epoch)
        self._window = _Newest(self._make_window)

    def span(self, start: int, stop: int) -> np.ndarray:
        """Examples ``start`` to ``stop`` of the order, int64 ``[stop - start]``."""
        pieces = [np.empty(0, dtype=np.int64)]
        while start < stop:
            epoch, place = divmod(start, self.size)
            _, bounds = self._epoch(epoch)
            window = int(np.searchsorted(bounds, place, side="right")) - 1
            place -= int(bounds[window])
            pieces.append(self._window(epoch, window)[place : place + stop - start])
            start += len(pieces[-1])
        return np.concatenate(pieces)

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The parts in their order of this epoch, and where each window begins (and the last one ends)."""
        parts = _permutation(len(self.sizes), self._seed, _PARTS, self._corpus, epoch)
        begins = np.cumsum(self.sizes[parts]) - self.sizes[parts]
        return parts, np.append(begins[:: self._width], self.size)

    def _make_window(self, epoch: int, window: int) -> np.ndarray:
        parts, _ = self._epoch(epoch)
        chosen = parts[window * self._width : (window + 1) * self._width]
        examples = np.concatenate([np.arange(self.sizes[part]) + self._firsts[part] for part in chosen])
        return examples[_permutation(len(examples), self._seed, _EXAMPLES, self._corpus, epoch, window)]


class _Newest:
    """The newest two results of a pure function; positions go forward, so that they suffice."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self._results: dict[Hashable, Any] = {}

    def __call__(self, *key: int) -> Any:
        if key not in self._results:
            if len(self._results) > 1:
                del self._results[next(iter(self._results))]
            self._results[key] = self._function(*key)
        return self._results[key]


def _permutation(count: int, *stream: int) -> np.ndarray:
    """int64 ``[count]``. Sorted raw words: NumPy does not promise that its own permutation stays what it is."""
    return np.argsort(np.random.PCG64(list(stream)).random_raw(count), kind="stable")


def _shares(total: int, weights: Sequence[int]) -> list[int]:
    """How many of the first ``total`` positions each corpus has.

    They are divided between the two halves of the corpora, then inside each half. A half's rounded share of a growing total
    never falls, nor does what is left for the other: so no corpus ever takes a position back, however small its weight.
    Largest remainders of more than two shares would (the Alabama paradox).
    """
    if len(weights) == 1:
        return [total]
    half = len(weights) // 2
    left, every = sum(weights[:half]), sum(weights)
    rounded = (2 * total * left + every) // (2 * every)
    return _shares(rounded, weights[:half]) + _shares(total - rounded, weights[half:])


def _whole(weights: Sequence[float], corpora: int) -> list[int]:
    """Weights as whole numbers in exactly the same proportion."""
    if len(weights) != corpora:
        raise ValueError(f"weights={weights!r} must be one number for each of the {corpora} corpora.")
    for weight in weights:
        if not isfinite(weight) or weight <= 0:
            raise ValueError(f"weights={weights!r} must be positive and finite; leave a corpus out that is not to be read.")
    exact = [Fraction(weight) for weight in weights]
    denominator = lcm(*(weight.denominator for weight in exact))
    return [int(weight * denominator) for weight in exact]
