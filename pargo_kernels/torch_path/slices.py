"""The slices of a run of partial rows, cell by cell: products of each row with its own keys, without a mask over all keys.

A product of one row with a few keys is too small for a matrix library (a call each, and most of the call is overhead), so
multiply and sum instead. Cells come first, ``[n_s, h, n_p, D]``: then one elementwise operation covers all cells of all rows
with long inner loops, whatever the slice length, and the softmax over few cells is an elementwise one too.
"""

from __future__ import annotations

import torch

from pargo_kernels.intervals import partial_owner, partial_slices, partial_start
from pargo_kernels.torch_path.softmax import softmax_

# from this many cells on, one product and one sum beat a chain of multiply-adds
LONG_SLICE = 8


class Slices:
    """Rows ``rows`` of ``num_partial`` and their keys; ``keys`` is the run of keys that they see together.

    Slices of equal length are a view of the keys; slices that differ by one key are gathered to the longer length and masked.
    """

    def __init__(self, rows: slice, num_partial: int, num_keys: int, device: torch.device):
        self.rows, self.num_rows = rows, rows.stop - rows.start
        self.length = -(-num_keys // num_partial)
        self.equal = num_keys % num_partial == 0
        self.keys = slice(*(partial_start(row, num_partial, num_keys) for row in (rows.start, rows.stop)))
        if self.equal:
            return
        bounds = partial_slices(num_partial, num_keys)[rows]
        key = torch.arange(self.keys.start, self.keys.stop)
        owner = partial_owner(key, num_partial, num_keys) - rows.start
        # [keys]: the cell of each key
        self.cell_of_key = ((key - bounds[owner, 0]) * self.num_rows + owner).to(device)
        position = bounds[:, 0] + torch.arange(self.length)[:, None]
        # [n_s * rows]: the key of each cell (cells past the slice repeat some key and are masked)
        self.key_of_cell = (position.clamp(max=self.keys.stop - 1) - self.keys.start).flatten().to(device)
        # [n_s, 1, 1, rows]
        self.invisible = (position >= bounds[:, 1])[:, None, None].to(device)

    def cells(self, keys: torch.Tensor) -> torch.Tensor:
        """``[h, keys, D]`` → ``[n_s, h, 1, rows, D]``; a view where slices are equal."""
        if not self.equal:
            keys = keys.index_select(1, self.key_of_cell)
            return keys.unflatten(1, (self.length, 1, self.num_rows)).movedim(1, 0)
        return keys.unflatten(1, (1, self.num_rows, self.length)).movedim(3, 0)

    def buffer(self, rows: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Room for a product of rows ``[h, g, rows, D]`` with their cells: ``[n_s, h, g, rows, D]``.

        In the order of the keys' memory: what is in another order reads a page for each key.
        """
        heads, group, num_rows, head_dim = rows.shape
        if keys.stride(0) < keys.stride(1):
            return keys.new_empty(self.length, num_rows, heads, group, head_dim).movedim(1, 3)
        return keys.new_empty(self.length, heads, group, num_rows, head_dim)

    def softmax_(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights ``[n_s, h, g, rows]``, in place of the scores, and lse ``[h, g, rows]``."""
        if not self.equal:
            scores.masked_fill_(self.invisible, float("-inf"))
        return softmax_(scores, 0)

    def add_outer(self, keys: torch.Tensor, weights: torch.Tensor, rows: torch.Tensor, out: torch.Tensor) -> None:
        """out = keys (both ``[h, keys, D]``) + weights ``[n_s, h, g, rows]`` times rows ``[h, g, rows, D]``, summed over g."""
        if not self.equal:
            cells = (weights.unsqueeze(-1) * rows).sum(2).movedim(0, 1).flatten(1, 2)
            torch.add(keys, cells.index_select(1, self.cell_of_key), out=out)
            return
        keys, out, weights, rows = self.cells(keys), self.cells(out), weights.unsqueeze(-1), rows.unsqueeze(2)
        for head in range(rows.shape[1]):
            torch.addcmul(keys, weights[:, :, head : head + 1], rows[:, head], out=out)
            keys = out


def slice_scores(rows: torch.Tensor, cells: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    """rows ``[h, g, n_p, D]`` with their cells ``[n_s, h, 1, n_p, D]`` → ``[n_s, h, g, n_p]``."""
    return torch.mul(rows, cells, out=buffer).sum(-1)


def weighted_sum(weights: torch.Tensor, cells: torch.Tensor, buffer: torch.Tensor, out: torch.Tensor) -> None:
    """weights ``[n_s, h, g, n_p]`` times cells ``[n_s, h, 1, n_p, D]`` → out ``[h, g, n_p, D]`` (any strides)."""
    weights = weights.unsqueeze(-1)
    if len(cells) >= LONG_SLICE:
        torch.sum(torch.mul(weights, cells, out=buffer), 0, out=out)
        return
    torch.mul(weights[0], cells[0], out=out)
    for weight, cell in zip(weights[1:], cells[1:], strict=True):
        out.addcmul_(weight, cell)
