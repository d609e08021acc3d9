"""Argument checks of the public ops. Each error names the argument, its value, the rule and the way out."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from pargo_kernels.intervals import EDGES
from pargo_kernels.settings import as_count

# a call like one that passed needs no second look: what the checks read of plain tensors and settings is in its kind
MAX_KINDS = 4096
_passed: set[tuple] = set()
_PLAIN = (torch.Tensor, torch.nn.Parameter)

IMPLS = ("auto", "triton", "c", "torch", "reference")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAX_HEAD_DIM = 256


def passed(query, key, value, *settings) -> tuple | None:
    """None if such a call has passed the checks before, else what :func:`remember` takes when it has.

    ``settings`` are hashable, their numbers plain ints and floats. Traced and fake tensors, whose sizes may be symbols, are
    looked at every time.
    """
    if type(query) not in _PLAIN or type(key) not in _PLAIN or type(value) not in _PLAIN or torch.compiler.is_compiling():
        return ()
    try:
        kind = (
            query.shape, key.shape, value.shape, query.dtype, key.dtype, value.dtype,
            query.device, key.device, value.device, query.layout, key.layout, value.layout,
            # 1, 1.0 and True are equal and not alike
            *settings, *map(type, settings),
        )  # fmt: skip
        return None if kind in _passed else kind
    except (TypeError, RuntimeError):
        # a setting that has no hash, a nested tensor, which has no shape: the checks say so
        return ()


def remember(kind: tuple) -> None:
    """Such a call has passed."""
    if kind:
        if len(_passed) >= MAX_KINDS:
            _passed.clear()
        _passed.add(kind)


def check_qkv(query, key, value) -> None:
    """Rank, device, dtype, head count and head dimension of query ``[B, H, n_q, D]``, key and value ``[*, H_kv, n_k, D]``."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}; it must be a torch.Tensor.")
        check_strided(name, tensor)
        if tensor.dim() != 4:
            raise ValueError(
                f"{name} has shape {_shape(tensor)}; it must have 4 dimensions [batch, heads, tokens, head_dim]: "
                f"{name}.unflatten(-1, (num_heads, -1)).transpose(1, 2) turns [batch, tokens, channels] into that."
            )
    if not (query.dtype == key.dtype == value.dtype):
        raise TypeError(
            f"query is {query.dtype}, key {key.dtype}, value {value.dtype}; they must be of one dtype: cast them, or run "
            "under torch.autocast, which casts them to its own dtype."
        )
    if query.dtype not in FLOATS:
        raise TypeError(f"query is {query.dtype}; use float16, bfloat16, float32 or float64: cast query, key and value.")
    if not (query.device == key.device == value.device):
        raise ValueError(f"query is on {query.device}, key on {key.device}, value on {value.device}; move them to one device.")
    if key.shape != value.shape:
        raise ValueError(f"key has shape {_shape(key)} and value {_shape(value)}; their shapes must be equal.")
    num_heads, num_kv_heads, head_dim = query.shape[1], key.shape[1], query.shape[3]
    if num_kv_heads == 0 or num_heads % num_kv_heads:
        raise ValueError(
            f"query has {num_heads} heads and key {num_kv_heads}; the query's must be a multiple of the key's "
            "(grouped-query attention)." + _swapped(query, key)
        )
    if head_dim != key.shape[3]:
        raise ValueError(f"query has head_dim={head_dim} and key {key.shape[3]}; they must be equal.")
    if not 1 <= head_dim <= MAX_HEAD_DIM:
        raise ValueError(f"query has head_dim={head_dim}; it must lie in 1...{MAX_HEAD_DIM}: use more, narrower heads.")


def check_strided(name, tensor) -> None:
    """A plain tensor in memory, which can be read by its strides."""
    if tensor.is_nested:
        raise TypeError(
            f"{name} is a nested tensor; it must be a strided one: pack the images along the tokens and pass cu_seqlens_k "
            "(partial_global_attention), or pad them: torch.nested.to_padded_tensor."
        )
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} has layout {tensor.layout}; it must be a strided tensor: {name}.to_dense().")
    if not torch.compiler.is_compiling() and is_traceable_wrapper_subclass(tensor):
        raise TypeError(
            f"{name} is a {type(tensor).__name__}, which has no memory of its own; it must be a plain torch.Tensor: "
            f"{name}.to_local() of a DTensor, {name}.dequantize() of a quantized one."
        )


def check_partial_global(query, key, num_partial, cu_seqlens_k, check_contents) -> None:
    """The layout of partial-global attention; call after :func:`check_qkv`."""
    meaning = "the rows of query; the rows after it are global rows"
    _check_count("num_partial", num_partial, 0, query.shape[2], meaning, query, key)
    if cu_seqlens_k is not None:
        _check_packing(query, key, num_partial, cu_seqlens_k, check_contents)
        return
    if query.shape[0] != key.shape[0]:
        raise ValueError(
            f"query has batch {query.shape[0]} and key {key.shape[0]}; they must be equal, or pass cu_seqlens_k with "
            "key and value packed to batch 1."
        )
    num_keys = key.shape[2]
    if num_keys < max(1, num_partial):
        raise ValueError(
            f"key has n_v={num_keys} visual tokens for num_partial={num_partial}; every partial row needs at least one, and an "
            "image must have one: use fewer partial rows or a larger image."
        )


def check_cascaded(query, key, window, num_partial, edge) -> None:
    """The layout of cascaded attention; call after :func:`check_qkv`. ``num_partial`` is already resolved."""
    if query.shape[0] != key.shape[0] or query.shape[2] != key.shape[2]:
        raise ValueError(
            f"query has shape {_shape(query)} and key {_shape(key)}; this is self-attention: batch and tokens must be equal."
        )
    _check_count("num_partial", num_partial, 0, query.shape[2], "the rows of query; None means all of them", query, key)
    if edge not in EDGES:
        raise ValueError(f"edge={edge!r} is unknown: use 'clamp' (the paper's windows) or 'truncate'.")
    # without partial rows there is no band, and 1 stands for none
    meaning = "num_partial; intervals.cascade_windows gives the paper's windows"
    _check_count("window", window, 1, max(1, num_partial), meaning, query, key)


def check_impl(impl) -> None:
    """``impl`` is one of the names."""
    if impl not in IMPLS:
        raise ValueError(f"impl={impl!r} is unknown: use one of {', '.join(map(repr, IMPLS))}.")


def _check_count(name, value, low, high, meaning, query, key) -> None:
    if not low <= value <= high:
        as_count(name, value)
        hint = _swapped(query, key) if low <= value <= query.shape[1] else ""
        raise ValueError(f"{name}={value} must lie in {low}...{high} ({meaning}).{hint}")


def _swapped(query, key) -> str:
    # a hint where query and key would do as [batch, tokens, heads, head_dim], the layout of flash-attn
    (_, rows, heads, _), (_, tokens, kv_heads, _) = query.shape, key.shape
    if heads < rows and kv_heads < tokens and kv_heads > 0 and heads % kv_heads == 0:
        return (
            f" If query {_shape(query)} is [batch, tokens, heads, head_dim], pass query.transpose(1, 2), and key and value "
            "likewise: the ops take [batch, heads, tokens, head_dim], of any strides."
        )
    return ""


def _check_packing(query, key, num_partial, cu_seqlens_k, check_contents) -> None:
    if not isinstance(cu_seqlens_k, torch.Tensor):
        raise TypeError(f"cu_seqlens_k is a {type(cu_seqlens_k).__name__}; it must be an int32 tensor of batch + 1 offsets.")
    if cu_seqlens_k.layout != torch.strided:
        raise TypeError(f"cu_seqlens_k has layout {cu_seqlens_k.layout}; it must be strided: cu_seqlens_k.to_dense().")
    if cu_seqlens_k.dtype != torch.int32:
        raise TypeError(f"cu_seqlens_k is {cu_seqlens_k.dtype}; it must be torch.int32: cu_seqlens_k.int().")
    if cu_seqlens_k.dim() != 1 or cu_seqlens_k.shape[0] != query.shape[0] + 1:
        raise ValueError(
            f"cu_seqlens_k has shape {_shape(cu_seqlens_k)}; it must be [{query.shape[0] + 1}]: one offset for each of "
            f"the query's {query.shape[0]} images and the total at the end."
        )
    if cu_seqlens_k.device != query.device:
        raise ValueError(f"cu_seqlens_k is on {cu_seqlens_k.device} and query on {query.device}; move it there.")
    if key.shape[0] != 1:
        raise ValueError(
            f"key has batch {key.shape[0]}; with cu_seqlens_k the images are packed along the tokens: [1, H_kv, total, D]."
        )
    # a compiled graph has no contents yet: there the op checks them when it runs
    if not torch.compiler.is_compiling() and (check_contents or cu_seqlens_k.device.type == "cpu"):
        try:
            offsets = cu_seqlens_k.tolist()
        except RuntimeError as error:
            raise ValueError(
                "cu_seqlens_k holds no values that can be read here: it is fake, or mapped by vmap, which it cannot be; pack "
                "the images of all calls into one."
            ) from error
        check_offsets(offsets, key.shape[2], num_partial)


def check_offsets(offsets, total, num_partial) -> None:
    """The contents of cu_seqlens_k: from 0 to the packed tokens, at least one key for every partial row of every image."""
    if offsets[0] != 0 or offsets[-1] != total:
        raise ValueError(
            f"cu_seqlens_k runs from {offsets[0]} to {offsets[-1]}; it must run from 0 to {total}, the tokens of key."
        )
    for image, (begin, end) in enumerate(pairwise(offsets)):
        if end - begin < max(1, num_partial):
            raise ValueError(
                f"cu_seqlens_k gives image {image} n_v={end - begin} visual tokens for num_partial={num_partial}; every "
                "partial row needs at least one, and an image must have one: drop or enlarge it, or use fewer partial rows."
            )


def _shape(tensor) -> list[int]:
    return list(tensor.shape)
