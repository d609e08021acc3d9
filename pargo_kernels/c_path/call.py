"""``Call`` of call.h, packed: a call costs the host about as much as the struct module takes."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from ctypes import c_float

import torch

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

# ten tensors (address and four strides), cu_seqlens, eleven integers, scale, and the padding that C adds
CALL = struct.Struct("@" + 10 * "P4q" + "P" + "11q" + "f0q")
ABSENT = (0, 0, 0, 0, 0)
NO_GRADIENTS = 5 * ABSENT

Function = Callable[[bytes], int]


def attend(
    function: Function, query, key, value, num_partial: int, scale: float, **layout
) -> tuple[torch.Tensor, torch.Tensor]:
    """A forward: out like query and lse fp32 ``[B, H, n_q]``; ``layout`` as :func:`_run` takes it."""
    _check_alike(query, key, value)
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    _run(function, (*_whole(query), *_whole(key), *_whole(value), *_whole(out), *_rows(lse), *NO_GRADIENTS), query, key,
         num_partial, scale, **layout)  # fmt: skip
    return out, lse


def differentiate(
    function: Function, grad_out, grad_lse, query, key, value, out, lse, num_partial: int, scale: float, **layout
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A backward: the gradients of query, key and value. ``grad_lse`` may be None; gradients may have any strides."""
    _check_alike(query, key, value)
    grad_query, grad_key, grad_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    if not (grad_out.shape == out.shape == query.shape and grad_out.dtype == out.dtype == query.dtype):
        raise ValueError(
            f"grad_out is {list(grad_out.shape)} {grad_out.dtype} and out {list(out.shape)} {out.dtype}; both must be like "
            f"query, {list(query.shape)} {query.dtype}."
        )
    for name, numbers in (("lse", lse), ("grad_lse", grad_lse)):
        if numbers is not None and (numbers.shape != query.shape[:3] or numbers.dtype != torch.float32):
            raise ValueError(f"{name} is {list(numbers.shape)} {numbers.dtype}; it must be float32 {list(query.shape[:3])}.")
    places = (
        *_whole(query), *_whole(key), *_whole(value), *_whole(out), *_rows(lse), *_whole(grad_out),
        *(ABSENT if grad_lse is None else _rows(grad_lse)), *_whole(grad_query), *_whole(grad_key), *_whole(grad_value),
    )  # fmt: skip
    _run(function, places, query, key, num_partial, scale, **layout)
    return grad_query, grad_key, grad_value


def _check_alike(query, key, value) -> None:
    if not (query.dtype == key.dtype == value.dtype and key.is_cpu and value.is_cpu and key.shape == value.shape):
        raise ValueError(
            f"query is {query.dtype}, key {list(key.shape)} {key.dtype} on {key.device}, value {list(value.shape)} "
            f"{value.dtype} on {value.device}; all must be of one dtype, on the CPU, key and value of one shape."
        )


def _whole(tensor: torch.Tensor) -> tuple[int, ...]:
    # [batch, heads, tokens, columns]
    return (tensor.data_ptr(), *tensor.stride())


def _rows(tensor: torch.Tensor) -> tuple[int, ...]:
    # [batch, heads, tokens]
    return (tensor.data_ptr(), *tensor.stride(), 0)


def _run(
    function: Function, tensors: tuple[int, ...], query, key, num_partial: int, scale: float,
    offsets: array | None = None, window: int | None = None, clamp: bool = False,
) -> None:  # fmt: skip
    batch, num_heads, num_query, head_dim = query.shape
    key_batch, num_kv_heads, num_keys, key_dim = key.shape
    # the registered op may have been called by itself: what does not fit must not reach addresses
    if offsets is not None:
        fits = key_batch == 1
    elif window is None:
        fits = key_batch == batch and num_keys >= max(1, num_partial)
    else:
        fits = key_batch == batch and num_keys == num_query and 1 <= window <= max(1, num_partial)
    if not (fits and key_dim == head_dim and num_heads % num_kv_heads == 0 and 0 <= num_partial <= num_query):
        raise ValueError(
            f"query {list(query.shape)}, key {list(key.shape)}, num_partial={num_partial} and window={window} must fit "
            "together; the public op says what does not."
        )
    threads = torch.get_num_threads()
    call = CALL.pack(
        *tensors,
        0 if offsets is None else offsets.buffer_info()[0],
        batch, num_kv_heads, num_heads // num_kv_heads, num_query, num_keys, head_dim, num_partial, window or 0, clamp,
        DTYPES[query.dtype], threads, c_float(scale).value,
    )  # fmt: skip
    if function(call) != 0:
        raise MemoryError(
            f"the C path has no memory left to work in for query {list(query.shape)} and key {list(key.shape)} on "
            f"{threads} threads: free some, use fewer threads (torch.set_num_threads), or use impl='torch'."
        )
