"""Cascaded attention on the Triton kernels: planning the launches."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pargo_kernels.registration import lse_dtype
from pargo_kernels.triton_path.cascaded_backward import cascaded_key_backward, cascaded_query_backward
from pargo_kernels.triton_path.cascaded_forward import cascaded_forward
from pargo_kernels.triton_path.launch import Launch, block_dim, dot_precision, run
from pargo_kernels.triton_path.launch_table import architecture, entry_of
from pargo_kernels.triton_path.tiles import Strided


def forward(query, key, value, window, num_partial, edge, scale):
    """Returns out like query and lse fp32 ``[B, H, n]``."""
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=lse_dtype(query.dtype))
    run(forward_launches(query, key, value, out, lse, window, num_partial, edge, scale), query.device)
    return out, lse


def backward(grad_out, grad_lse, query, key, value, out, lse, window, num_partial, edge, scale):
    """Returns the gradients of query, key and value. ``grad_lse`` may be None."""
    grads = tuple(torch.empty_like(t) for t in (query, key, value))
    tensors = (grad_out, grad_lse, query, key, value, out, lse, *grads)
    run(backward_launches(*tensors, window, num_partial, edge, scale), query.device)
    return grads


def forward_launches(query, key, value, out, lse, window, num_partial, edge, scale, arch=None) -> Iterator[Launch]:
    """The launch of a forward.

    ``arch`` names the launch table's architecture; the query's device by default. Tensors may be on "meta".
    """
    tensors = tuple(map(Strided.of, (query, key, value, out, lse)))
    yield _launch(cascaded_forward, tensors, query, key, window, num_partial, edge, scale, arch)


def backward_launches(
    grad_out,
    grad_lse,
    query,
    key,
    value,
    out,
    lse,
    grad_query,
    grad_key,
    grad_value,
    window,
    num_partial,
    edge,
    scale,
    arch=None,
) -> Iterator[Launch]:
    """The launches of a backward: dQ and delta, then dK and dV."""
    do, q, k, v, o, s = map(Strided.of, (grad_out, query, key, value, out, lse))
    delta = Strided.of(torch.empty_like(lse))
    dlse = None if grad_lse is None else Strided.of(grad_lse)
    settings = (query, key, window, num_partial, edge, scale, arch)
    tensors = (do, dlse, q, k, v, o, s, delta, Strided.of(grad_query))
    yield _launch(cascaded_query_backward, tensors, *settings, HAS_GRAD_LSE=grad_lse is not None)
    yield _launch(cascaded_key_backward, (do, q, k, v, s, delta, Strided.of(grad_key), Strided.of(grad_value)), *settings)


def _launch(kernel, tensors: tuple, query, key, window, num_partial, edge, scale, arch, **constants) -> Launch:
    batch, num_heads, num_tokens, head_dim = query.shape
    num_kv_heads = key.shape[1]
    row = entry_of(kernel.__name__, arch or architecture(query.device), query.dtype, block_dim(head_dim))
    by_keys = kernel is cascaded_key_backward
    block = row.block_n if by_keys else row.block
    partial_blocks = -(-num_partial // block)
    num_blocks = partial_blocks + -(-(num_tokens - num_partial) // block)
    return Launch(
        kernel,
        (batch * (num_kv_heads if by_keys else num_heads) * num_blocks,),
        (*tensors, scale, num_heads, num_partial, num_tokens, window, partial_blocks, num_blocks),
        constants
        | {
            "GROUP": num_heads // num_kv_heads,
            "HEAD_DIM": head_dim,
            "BLOCK_D": block_dim(head_dim),
            "BLOCK_M": row.block,
            "BLOCK_N": row.block_n,
            "CLAMP": edge == "clamp",
            "PRECISION": dot_precision(query.dtype),
        },
        row.num_warps,
        row.num_stages,
    )
