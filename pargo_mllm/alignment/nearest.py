"""The word that lies closest to each of many directions, exactly, without words × tokens in fp32.

The whole vocabulary is looked at in the fastest dtype that the device computes in, and of every eight words only the best is
kept. How far these scores can be off is known from what was rounded, so that only words within that distance of the best are
looked at again, in fp64. Where too many are, all are, in fp64.
"""

from __future__ import annotations

import torch

from pargo_mllm.alignment.vocabulary import PIECE, Vocabulary
from pargo_mllm.loading import computes_bf16

# words that are scored together, and how many such groups of a token are looked at again
_GROUP, _GROUPS = 8, 128
# by which words are equally good, and a direction has none
_EQUAL, _NONE = 1e-9, 1e-9


class WordSearch:
    """The words of a vocabulary as directions.

    Args:
        vocabulary: whose words may be found.
        centred: less the mean of all rows.
        chunk: rows that are looked at together; the answers do not depend on it.
    """

    def __init__(self, vocabulary: Vocabulary, centred: bool, chunk: int | None = None):
        self.table = vocabulary.embeddings
        lengths = vocabulary.lengths(centred)
        self.mean = lengths.mean
        usable = vocabulary.is_word & (lengths.norms > 0)
        self.inverse = (1 / lengths.norms).where(usable, 0.0)
        wanted = chunk or max(1, (4 if self.table.device.type == "cpu" else 128) * PIECE // self.table.shape[1])
        self.chunk = -(-wanted // _GROUP) * _GROUP
        self.fast = torch.bfloat16 if computes_bf16(self.table.device.type) else torch.float32
        # the largest distance of a rounded direction from its word's; 0 while it is not known
        self._rounded: dict[torch.dtype, float] = {}

    def directions(self, rows: torch.Tensor) -> torch.Tensor:
        """fp64 ``[n, C]``, of length 1."""
        return (self.table[rows].double() - self.mean) * self.inverse[rows, None]

    def nearest(self, unit: torch.Tensor, non_negative: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """For directions fp64 ``[T, C]`` of length 1 the word whose cosine is largest, or largest by its size: rows int64
        ``[T]`` and cosines fp64 ``[T]``. Row -1 where every word stands at a right angle or, if ``non_negative``, behind it.
        """
        rows = torch.full((len(unit),), -1, device=unit.device)
        cosines = unit.new_zeros(len(unit))
        pending = torch.arange(len(unit), device=unit.device)
        for dtype in (self.fast, torch.float64):
            if not len(pending):
                break
            directions = unit[pending]
            peaks, error = self._peaks(directions, dtype, non_negative)
            top = peaks.amax(dim=0)
            if dtype == torch.float64:
                # of equally good words the first lies in the first of equally good groups
                first, best = (peaks >= top * (1 - _EQUAL)).int().argmax(dim=0), peaks.argmax(dim=0)
                token = torch.arange(len(pending), device=unit.device)
                token, group = torch.cat([token, token[best != first]]), torch.cat([first, best[best != first]])
                few = torch.ones_like(pending, dtype=torch.bool)
            else:
                # a score is off by as much as its own size, and by that of the best
                least = top - 2 * error - 2.5 * _roundoff(dtype) * top.abs()
                group, token = (peaks >= least).nonzero(as_tuple=True)
                few = token.bincount(minlength=len(pending)) <= _GROUPS
                group, token = group[few[token]], token[few[token]]
            found, cosine = self._decide(directions, token, group, non_negative)
            rows[pending[few]], cosines[pending[few]] = found[few], cosine[few]
            pending = pending[~few]
        return rows, cosines

    def _peaks(self, unit: torch.Tensor, dtype: torch.dtype, non_negative: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The best score of each group of words ``[groups, T]``, and how far off scores can be, ``[T]``, beside their own
        rounding."""
        tokens = unit.to(dtype)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        mean, inverse = self.mean.to(wide), self.inverse[:, None].to(wide)
        count, size = len(self.table), min(self.chunk, -(-len(self.table) // _GROUP) * _GROUP)
        peaks = tokens.new_empty(-(-count // _GROUP), len(unit), dtype=_scored(tokens))
        # the same memory for every piece: new pages cost more than what is written into them
        words = tokens.new_empty(size, unit.shape[1], dtype=wide)
        rounded = words if dtype == wide else torch.empty_like(words, dtype=dtype)
        scores = peaks.new_zeros(size, len(unit))
        furthest = 0.0
        for begin in range(0, count, size):
            rows = self.table[begin : begin + size]
            torch.sub(rows, mean, out=words[: len(rows)])
            words[: len(rows)] *= inverse[begin : begin + size]
            # behind the last row
            words[len(rows) :] = 0
            if dtype != wide:
                rounded.copy_(words)
                if dtype not in self._rounded:
                    furthest = max(furthest, float(torch.linalg.vector_norm(words.sub_(rounded), dim=1).amax()))
            _products(rounded, tokens, scores)
            if not non_negative:
                scores.abs_()
            groups = slice(begin // _GROUP, begin // _GROUP + -(-len(rows) // _GROUP))
            torch.amax(scores.unflatten(0, (-1, _GROUP))[: groups.stop - groups.start], dim=1, out=peaks[groups])
        self._rounded.setdefault(dtype, furthest)
        off = torch.linalg.vector_norm(unit - tokens.double(), dim=1)
        summed = (unit.shape[1] + 8) * 2.0**-24
        error = off + (1 + off) * self._rounded[dtype] + summed + _inputs_off(dtype)
        return peaks, error.to(wide)

    def _decide(
        self, unit: torch.Tensor, token: torch.Tensor, group: torch.Tensor, non_negative: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """For directions ``[T, C]`` the nearest words ``[T]`` of the groups that are paired with them ``[pairs]``, in fp64."""
        rows = group[:, None] * _GROUP + torch.arange(_GROUP, device=group.device)
        there = rows < len(self.table)
        rows = rows.where(there, 0)
        against_mean = unit @ self.mean.double()
        scores = unit.new_empty(rows.shape)
        size = max(1, PIECE // (_GROUP * self.table.shape[1]))
        taken = self.table.new_empty(size * _GROUP, self.table.shape[1])
        words = torch.empty_like(taken, dtype=torch.float64)
        for begin in range(0, len(rows), size):
            part = rows[begin : begin + size]
            torch.index_select(self.table, 0, part.flatten(), out=taken[: part.numel()])
            words[: part.numel()] = taken[: part.numel()]
            groups = words[: part.numel()].unflatten(0, part.shape)
            products = torch.bmm(groups, unit[token[begin : begin + size], :, None])[..., 0]
            scores[begin : begin + size] = products - against_mean[token[begin : begin + size], None]
        scores *= self.inverse[rows]
        fits = (scores if non_negative else scores.abs()).where(there, -torch.inf)
        best = unit.new_full((len(unit),), -torch.inf).scatter_reduce(0, token, fits.amax(dim=1), "amax")
        good = there & (fits >= best[token, None] * (1 - _EQUAL)) & (best[token, None] > _NONE)
        nowhere = len(self.table)
        firsts = rows.where(good, nowhere).amin(dim=1)
        found = torch.full_like(best, nowhere, dtype=torch.int64).scatter_reduce(0, token, firsts, "amin")
        said = scores.where(good & (rows == found[token, None]), 0.0).sum(dim=1)
        cosines = torch.zeros_like(best).scatter_add(0, token, said)
        return found.where(found < nowhere, -1), cosines


def _scored(tokens: torch.Tensor) -> torch.dtype:
    # on a GPU partial sums in bf16 would be off by more than is known
    return torch.float32 if tokens.is_cuda and tokens.dtype == torch.bfloat16 else tokens.dtype


def _products(words: torch.Tensor, tokens: torch.Tensor, scores: torch.Tensor) -> None:
    if scores.dtype == tokens.dtype:
        torch.mm(words, tokens.T, out=scores)
    else:
        torch.mm(words, tokens.T, out_dtype=scores.dtype, out=scores)


def _roundoff(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def _inputs_off(dtype: torch.dtype) -> float:
    """By how much a product of fp32 is off where a user lets torch round its factors."""
    return 0.0 if dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest" else 2.0**-6
