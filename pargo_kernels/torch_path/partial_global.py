"""Partial-global attention in plain torch: one interval of keys per row, no dense mask, analytic backward.

Partial rows are a batch of tiny products ``[g, D] x [n_s, D]``, global rows one thin product with all keys. Slices of
equal length are a view of the keys; slices that differ by one key are gathered to the longer length and masked.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch

from pargo_kernels.checks import check_offsets
from pargo_kernels.intervals import partial_owner, partial_slices
from pargo_kernels.registration import lse_dtype
from pargo_kernels.torch_path.head_blocks import HeadBlock, for_each_block, load, staging, store
from pargo_kernels.torch_path.softmax import finite_lse, softmax_

# below this many keys a chain of multiply-adds beats a batch of tiny matrix products
SHORT_SLICE = 8


class Slices:
    """Keys ``[h, n_v, D]`` seen as ``[h, n_p, n_s, D]``, and back."""

    def __init__(self, num_partial: int, num_keys: int, device: torch.device):
        self.num_partial, self.num_keys = num_partial, num_keys
        self.length = -(-num_keys // num_partial)
        self.equal = num_keys % num_partial == 0
        if self.equal:
            return
        bounds = partial_slices(num_partial, num_keys).to(device)
        position = bounds[:, :1] + torch.arange(self.length, device=device)
        # [n_p * n_s]: the key of each cell (cells past the slice repeat its last key, where it has one, and are masked)
        self.key_of_cell = torch.minimum(position, bounds[:, 1:] - 1).clamp(min=0).flatten()
        self.invisible = position >= bounds[:, 1:]
        key = torch.arange(num_keys, device=device)
        owner = partial_owner(key, num_partial, num_keys)
        # [n_v]: the cell of each key
        self.cell_of_key = owner * self.length + key - bounds[owner, 0]

    def split(self, keys: torch.Tensor) -> torch.Tensor:
        """``[h, n_v, D]`` → ``[h, n_p, n_s, D]``."""
        if not self.equal:
            keys = keys.index_select(1, self.key_of_cell)
        return keys.unflatten(1, (self.num_partial, self.length))

    def hide(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores ``[h, n_p, g, n_s]`` of cells that lie past their slice become minus infinity, in place."""
        return scores if self.equal else scores.masked_fill_(self.invisible[:, None], float("-inf"))

    def add_outer(self, keys: torch.Tensor, weights: torch.Tensor, rows: torch.Tensor) -> None:
        """keys ``[h, n_v, D]`` += weights ``[h, n_p, g, n_s]`` times rows ``[h, n_p, g, D]``, summed over g."""
        if not self.equal:
            cells = (weights.transpose(2, 3) @ rows).flatten(1, 2)
            keys.add_(cells.index_select(1, self.cell_of_key))
        elif weights.shape[2] == 1:
            keys.unflatten(1, (self.num_partial, self.length)).addcmul_(weights.transpose(2, 3), rows)
        else:
            keys.unflatten(1, (self.num_partial, self.length)).add_(weights.transpose(2, 3) @ rows)


def forward(query, key, value, cu_seqlens_k, num_partial, scale):
    """Returns out like query and lse fp32 (fp64 for fp64) ``[B, H, n_q]``."""
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=lse_dtype(query.dtype))
    for (q, o, s), (k, v) in _images(cu_seqlens_k, num_partial, (query, out, lse), (key, value)):
        if k.shape[2] == 0:
            o.zero_(), s.fill_(float("-inf"))
            continue
        slices = _slices(num_partial, k)
        tensors = (slices, q, k, v, o, s, num_partial, scale)
        for_each_block(q, k, partial(_forward_block, tensors))
    return out, lse


def backward(grad_out, grad_lse, query, key, value, cu_seqlens_k, out, lse, num_partial, scale):
    """Returns the gradients of query, key and value. ``grad_lse`` may be None."""
    grad_query, grad_key, grad_value = (torch.empty_like(t) for t in (query, key, value))
    if grad_lse is None:
        grad_lse = lse.new_zeros(()).expand(lse.shape)
    per_query = (query, grad_out, grad_lse, out, lse, grad_query)
    for (q, do, dlse, o, s, dq), (k, v, dk, dv) in _images(
        cu_seqlens_k, num_partial, per_query, (key, value, grad_key, grad_value)
    ):
        if k.shape[2] == 0:
            dq.zero_()
            continue
        slices = _slices(num_partial, k)
        tensors = (slices, q, k, v, o, s, do, dlse, dq, dk, dv, num_partial, scale)
        for_each_block(q, k, partial(_backward_block, tensors))
    return grad_query, grad_key, grad_value


def _images(cu_seqlens_k, num_partial, per_query, per_key):
    if cu_seqlens_k is None:
        yield per_query, per_key
        return
    offsets = cu_seqlens_k.tolist()
    if cu_seqlens_k.device.type == "cpu":
        check_offsets(offsets, per_key[0].shape[2], num_partial)
    for image, (begin, end) in enumerate(pairwise(offsets)):
        yield [t[image : image + 1] for t in per_query], [t[:, :, begin:end] for t in per_key]


def _slices(num_partial, key) -> Slices | None:
    return Slices(num_partial, key.shape[2], key.device) if num_partial else None


def _forward_block(tensors: tuple, block: HeadBlock) -> None:
    slices, query, key, value, out, lse, num_partial, scale = tensors
    q, k, v = load(block.q(query)), load(block.kv(key)), load(block.kv(value))
    o_block, lse_block = block.q(out), block.q(lse)
    o = staging(o_block)
    if slices is not None:
        rows = q[:, :, :num_partial].transpose(1, 2)
        weights, row_lse = softmax_(slices.hide(_slice_scores(rows, slices.split(k)).mul_(scale)))
        _weighted_sum(weights, slices.split(v), out=o[:, :, :num_partial].transpose(1, 2))
        lse_block[..., :num_partial].copy_(row_lse.transpose(1, 2).view(lse_block[..., :num_partial].shape))
    rows = q[:, :, num_partial:]
    weights, row_lse = softmax_(torch.bmm(rows.flatten(1, 2) * scale, k.transpose(1, 2)))
    o[:, :, num_partial:] = torch.bmm(weights, v).view(rows.shape)
    lse_block[..., num_partial:].copy_(row_lse.view(lse_block[..., num_partial:].shape))
    store(o_block, o)


def _backward_block(tensors: tuple, block: HeadBlock) -> None:
    slices, query, key, value, out, lse, grad_out, grad_lse, dq_all, dk_all, dv_all, n_p, scale = tensors
    q, o, do = load(block.q(query)), load(block.q(out)), load(block.q(grad_out))
    k, v = load(block.kv(key)), load(block.kv(value))
    row_lse, dlse = finite_lse(block.q(lse).flatten(0, 1)), block.q(grad_lse).flatten(0, 1)
    dq, dk, dv = staging(block.q(dq_all)), staging(block.kv(dk_all)), staging(block.kv(dv_all))

    rows, row_grads = (q[:, :, n_p:].flatten(1, 2) * scale), do[:, :, n_p:].flatten(1, 2)
    delta = torch.linalg.vecdot(row_grads, o[:, :, n_p:].flatten(1, 2)) - dlse[:, :, n_p:].flatten(1, 2)
    weights = torch.baddbmm(row_lse[:, :, n_p:].flatten(1, 2).unsqueeze(-1), rows, k.transpose(1, 2), beta=-1).exp_()
    grad_scores = torch.baddbmm(delta.unsqueeze(-1), row_grads, v.transpose(1, 2), beta=-1).mul_(weights)
    dq[:, :, n_p:] = torch.bmm(grad_scores, k).mul_(scale).view(dq[:, :, n_p:].shape)
    torch.bmm(grad_scores.transpose(1, 2), rows, out=dk)
    torch.bmm(weights.transpose(1, 2), row_grads, out=dv)

    if slices is not None:
        k_slices, v_slices = slices.split(k), slices.split(v)
        rows, row_grads = q[:, :, :n_p].transpose(1, 2), do[:, :, :n_p].transpose(1, 2)
        scores = slices.hide(_slice_scores(rows, k_slices).mul_(scale))
        weights = scores.sub_(row_lse[:, :, :n_p].transpose(1, 2).unsqueeze(-1)).exp_()
        grad_weights = _slice_scores(row_grads, v_slices)
        delta = torch.linalg.vecdot(weights, grad_weights) - dlse[:, :, :n_p].transpose(1, 2)
        grad_scores = grad_weights.sub_(delta.unsqueeze(-1)).mul_(weights).mul_(scale)
        _weighted_sum(grad_scores, k_slices, out=dq[:, :, :n_p].transpose(1, 2))
        slices.add_outer(dk, grad_scores, rows)
        slices.add_outer(dv, weights, row_grads)
    store(block.q(dq_all), dq)
    store(block.kv(dk_all), dk)
    store(block.kv(dv_all), dv)


def _slice_scores(rows, keys):
    """rows ``[h, n_p, g, D]``, keys ``[h, n_p, n_s, D]`` → ``[h, n_p, g, n_s]``."""
    scores = torch.bmm(rows.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2))
    return scores.unflatten(0, rows.shape[:2])


def _weighted_sum(weights, keys, out):
    """weights ``[h, n_p, g, n_s]``, keys ``[h, n_p, n_s, D]`` → out ``[h, n_p, g, D]`` (any strides)."""
    if keys.shape[2] >= SHORT_SLICE:
        out.copy_(torch.bmm(weights.flatten(0, 1), keys.flatten(0, 1)).view(out.shape))
        return
    torch.mul(weights[..., :1], keys[:, :, :1], out=out)
    for cell in range(1, keys.shape[2]):
        out.addcmul_(weights[..., cell : cell + 1], keys[:, :, cell : cell + 1])
