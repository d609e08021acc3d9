"""Device code shared by the kernels: strided tensors, row tiles in and out, the softmax."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


class Strided(NamedTuple):
    """A tensor ``[batch, heads, rows, dim]`` (or ``[batch, heads, rows]``, dim 0) as a kernel argument."""

    base: Any
    batch: int
    head: int
    row: int
    dim: int

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Strided:
        """The tensor and its real strides: nothing is made contiguous."""
        strides = tensor.stride()
        return cls(tensor, strides[0], strides[1], strides[2], strides[3] if len(strides) == 4 else 0)


@triton.jit
def head_pointer(x, batch, head):
    # first row of a head; int64 because one stride can exceed 2^31
    return x.base + tl.cast(batch, tl.int64) * x.batch + tl.cast(head, tl.int64) * x.head


@triton.jit
def load_rows(pointer, offsets, stride_dim, valid, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    # [rows, BLOCK_D] at int64 row offsets; 0 where invalid
    dims = tl.arange(0, BLOCK_D)
    mask = valid[:, None]
    if HEAD_DIM != BLOCK_D:
        mask = mask & (dims < HEAD_DIM)[None, :]
    return tl.load(pointer + offsets[:, None] + dims[None, :] * stride_dim, mask=mask, other=0.0)


@triton.jit
def store_rows(pointer, offsets, stride_dim, valid, values, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    # [rows, BLOCK_D], cast to the tensor's dtype
    dims = tl.arange(0, BLOCK_D)
    mask = valid[:, None]
    if HEAD_DIM != BLOCK_D:
        mask = mask & (dims < HEAD_DIM)[None, :]
    tl.store(pointer + offsets[:, None] + dims[None, :] * stride_dim, values.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def complete_softmax(scores, values, PRECISION: tl.constexpr):
    # peak, total and weighted sum of rows whose keys all lie in this tile
    peak = tl.max(scores, axis=1)
    weights = tl.exp2(scores - tl.where(peak == float("-inf"), 0.0, peak)[:, None])
    return peak, tl.sum(weights, axis=1), tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)


@triton.jit
def online_softmax(scores, values, peak, total, accumulator, PRECISION: tl.constexpr):
    # one step of the streaming softmax in base 2; a row that has seen nothing keeps peak -inf and total 0
    new_peak = tl.maximum(peak, tl.max(scores, axis=1))
    shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    decay = tl.exp2(peak - shift)
    weights = tl.exp2(scores - shift[:, None])
    total = total * decay + tl.sum(weights, axis=1)
    accumulator = tl.dot(weights.to(values.dtype), values, accumulator * decay[:, None], input_precision=PRECISION)
    return new_peak, total, accumulator


@triton.jit
def finish_softmax(peak, total, accumulator):
    # normalised output and base-2 lse; 0 and -inf for a row that saw nothing
    seen = total > 0.0
    total = tl.where(seen, total, 1.0)
    return accumulator / total[:, None], tl.where(seen, peak + tl.log2(total), float("-inf"))


@triton.jit
def softmax_weights(scores, lse):
    # exp(scores - lse) for scores in base 2 and a natural-log lse [rows]; 0 for a row that saw nothing
    return tl.exp2(scores - tl.where(lse == float("-inf"), 0.0, lse * LOG2E)[:, None])


@triton.jit
def row_delta(o, do, grad_lse, valid, HAS_GRAD_LSE: tl.constexpr):
    # rowsum(dO * O) - dLSE; grad_lse is a pointer block [rows]
    delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), axis=1)
    if HAS_GRAD_LSE:
        delta -= tl.load(grad_lse, mask=valid, other=0.0)
    return delta
