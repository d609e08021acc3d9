"""``Call`` of call.h, packed: a call costs the host about as much as the struct module takes."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable

import torch

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

# ten tensors (address and four strides), cu_seqlens, eleven integers, scale, and the padding that C adds
CALL = struct.Struct("@" + 10 * "P4q" + "P" + "11q" + "f0q")
ABSENT = (0, 0, 0, 0, 0)


def whole(tensor: torch.Tensor) -> tuple[int, ...]:
    """A tensor ``[batch, heads, tokens, columns]`` of any strides."""
    return (tensor.data_ptr(), *tensor.stride())


def rows(tensor: torch.Tensor) -> tuple[int, ...]:
    """A tensor ``[batch, heads, tokens]`` of any strides."""
    return (tensor.data_ptr(), *tensor.stride(), 0)


def run(
    function: Callable[[bytes], int],
    tensors: tuple[int, ...],
    query: torch.Tensor,
    key: torch.Tensor,
    num_partial: int,
    scale: float,
    *,
    offsets: array | None = None,
    window: int = 0,
    clamp: bool = False,
) -> None:
    """Call ``function``; ``tensors`` are the places of all ten, in order.

    Raises:
        MemoryError: where there is not enough for a thread's working memory.
    """
    batch, num_heads, num_query, head_dim = query.shape
    _, num_kv_heads, num_keys, _ = key.shape
    status = function(
        CALL.pack(
            *tensors,
            0 if offsets is None else offsets.buffer_info()[0],
            batch, num_kv_heads, num_heads // num_kv_heads, num_query, num_keys, head_dim, num_partial, window, clamp,
            DTYPES[query.dtype], torch.get_num_threads(), scale,
        )
    )  # fmt: skip
    if status != 0:
        raise MemoryError(
            f"the C path has no working memory left for query {list(query.shape)} and key {list(key.shape)} on "
            f"{torch.get_num_threads()} threads: free some, use fewer threads, or use impl='torch'."
        )
