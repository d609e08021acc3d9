"""Device code shared by the kernels: strided tensors, row tiles in and out, the softmax."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# columns that an exact fp32 dot takes at a time: whole rows as operands would not fit the registers
FP32_SLICE = tl.constexpr(32)


class Strided(NamedTuple):
    """A tensor ``[batch, heads, rows, dim]`` (or ``[batch, heads, rows]``) as a kernel argument.

    ``batch``, ``head`` and ``row`` are strides in units of ``unit`` elements. The unit is known to the compiler: with 16
    bytes it sees that whole rows can be moved 16 bytes at a time, whatever the strides are. Unless columns are ``apart``, it
    knows ``dim`` too.
    """

    base: Any
    # numbers, or their types in a signature
    batch: Any
    head: Any
    row: Any
    dim: Any
    unit: Any
    # 0 or 1: the interpreter takes no bool
    apart: Any


def strided(*tensors: torch.Tensor) -> tuple[Strided, ...]:
    """Tensors ``[batch, heads, rows, dim]`` that a kernel accesses in one way: the widest that suits all of them.

    That leaves few ways: by 16, 8 or 4 bytes, by single elements side by side, and by elements apart. Real strides: nothing
    is made contiguous.
    """
    strides = [[0 if size == 1 else stride for size, stride in zip(t.shape, t.stride(), strict=True)] for t in tensors]
    apart = tensors[0].shape[3] > 1 and any(dim != 1 for *_, dim in strides)
    bytes_apart = [stride * tensors[0].element_size() for *outer, _ in strides for stride in outer]
    shared = 1 if apart else math.gcd(16, *bytes_apart, *(t.data_ptr() for t in tensors))
    unit = max(1, shared // tensors[0].element_size())
    return tuple(
        Strided(t, batch // unit, head // unit, row // unit, dim if apart else 1, unit, int(apart))
        for t, (batch, head, row, dim) in zip(tensors, strides, strict=True)
    )


def vector(tensor: torch.Tensor) -> Strided:
    """A tensor ``[batch, heads, rows]``."""
    batch, head, row = tensor.stride()
    return Strided(tensor, batch, head, row, 0, 1, 0)


class Rows(NamedTuple):
    """Some rows of a head on the device: int64 offsets and validity ``[n]`` from a pointer, stride of the columns."""

    pointer: Any
    offsets: Any
    valid: Any
    dim: Any


@triton.jit
def head_pointer(x, batch, head):
    # first row of a head; int64 because one stride can exceed 2^31
    return x.base + (tl.cast(batch, tl.int64) * x.batch + tl.cast(head, tl.int64) * x.head) * x.unit


@triton.jit
def head_rows(x, batch, head, rows, valid):
    # the given rows of a head
    return Rows(head_pointer(x, batch, head), tl.cast(rows, tl.int64) * x.row * x.unit, valid, x.dim)


@triton.jit
def cells(rows, dims):
    # pointers [rows, dims]
    return rows.pointer + rows.offsets[:, None] + dims[None, :] * rows.dim


@triton.jit
def load_columns(rows, dims, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr):
    # [rows, dims]; 0 outside
    mask = rows.valid[:, None]
    if PADDED:
        mask = mask & (dims < HEAD_DIM)[None, :]
    return tl.load(cells(rows, dims), mask=mask, other=0.0)


@triton.jit
def load_rows(rows, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    # [rows, BLOCK_D]; 0 outside
    return load_columns(rows, tl.arange(0, BLOCK_D), HEAD_DIM, HEAD_DIM != BLOCK_D)


@triton.jit
def store_rows(rows, values, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    # [rows, BLOCK_D], cast to the tensor's dtype
    dims = tl.arange(0, BLOCK_D)
    mask = rows.valid[:, None]
    if HEAD_DIM != BLOCK_D:
        mask = mask & (dims < HEAD_DIM)[None, :]
    tl.store(cells(rows, dims), values.to(rows.pointer.dtype.element_ty), mask=mask)


@triton.jit
def load_vector(rows, other):
    # [rows] of a tensor without columns
    return tl.load(rows.pointer + rows.offsets, mask=rows.valid, other=other)


@triton.jit
def store_vector(rows, values):
    # [rows] of a tensor without columns
    tl.store(rows.pointer + rows.offsets, values, mask=rows.valid)


@triton.jit
def dot_rows(a_rows, a, b_rows, b, HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr):
    # a b^T, [a rows, b rows] fp32; exact fp32 reads its operands from memory again, a few columns at a time
    if PRECISION == "ieee":
        total = tl.zeros([a_rows.offsets.shape[0], b_rows.offsets.shape[0]], tl.float32)
        for first in tl.range(0, HEAD_DIM, FP32_SLICE, num_stages=1, loop_unroll_factor=1):
            dims = first + tl.arange(0, FP32_SLICE)
            x = load_columns(a_rows, dims, HEAD_DIM, True)
            y = load_columns(b_rows, dims, HEAD_DIM, True)
            total = tl.dot(x, tl.trans(y), total, input_precision="ieee")
        return total
    else:
        return tl.dot(a, tl.trans(b))


@triton.jit
def add_product(target_rows, weights, rows, begin, HEAD_DIM: tl.constexpr):
    # target (+)= weights @ rows in memory that this program owns, exact fp32, a few columns at a time; = where begin
    tl.debug_barrier()
    for first in tl.range(0, HEAD_DIM, FP32_SLICE, num_stages=1, loop_unroll_factor=1):
        dims = first + tl.arange(0, FP32_SLICE)
        product = tl.dot(weights, load_columns(rows, dims, HEAD_DIM, True), input_precision="ieee")
        before = Rows(target_rows.pointer, target_rows.offsets, target_rows.valid & (begin == 0), target_rows.dim)
        product += load_columns(before, dims, HEAD_DIM, True)
        tl.store(cells(target_rows, dims), product, mask=target_rows.valid[:, None] & (dims < HEAD_DIM)[None, :])


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
def base2_shift(lse):
    # what to subtract from base-2 scores, for a natural-log lse; a row that saw nothing has scores -inf and keeps them
    return tl.where(lse == float("-inf"), 0.0, lse * LOG2E)


@triton.jit
def row_delta(out_rows, do, grad_lse_rows, HAS_GRAD_LSE: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    # rowsum(dO * O) - dLSE
    o = load_rows(out_rows, HEAD_DIM, BLOCK_D)
    delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), axis=1)
    if HAS_GRAD_LSE:
        delta -= load_vector(grad_lse_rows, 0.0)
    return delta
