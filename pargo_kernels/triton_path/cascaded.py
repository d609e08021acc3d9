"""Cascaded attention on the Triton kernels: planning the launches."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pargo_kernels.registration import lse_dtype
from pargo_kernels.triton_path.cascaded_backward import cascaded_key_backward, cascaded_query_backward
from pargo_kernels.triton_path.cascaded_forward import cascaded_forward
from pargo_kernels.triton_path.launch import Launch, Parameters, block_dim, dot_precision, run
from pargo_kernels.triton_path.launch_table import architecture, entry_of, remembered
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
    layout = (query.shape, key.shape, window, num_partial, edge, query.dtype, arch or architecture(query.device))
    yield plan(cascaded_forward, *layout).launch(*map(Strided.of, (query, key, value, out, lse)), scale)


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
    layout = (query.shape, key.shape, window, num_partial, edge, query.dtype, arch or architecture(query.device))
    do, q, k, v, o, s = map(Strided.of, (grad_out, query, key, value, out, lse))
    delta = Strided.of(torch.empty_like(lse))
    dlse = None if grad_lse is None else Strided.of(grad_lse)
    by_rows = plan(cascaded_query_backward, *layout, has_grad_lse=grad_lse is not None)
    yield by_rows.launch(do, dlse, q, k, v, o, s, delta, Strided.of(grad_query), scale)
    by_keys = plan(cascaded_key_backward, *layout)
    yield by_keys.launch(do, q, k, v, s, delta, Strided.of(grad_key), Strided.of(grad_value), scale)


@remembered
def plan(kernel, query_shape, key_shape, window, num_partial, edge, dtype, arch, has_grad_lse=None) -> Parameters:
    """A launch of one of the kernels; ``has_grad_lse`` where the kernel asks for it."""
    batch, num_heads, num_tokens, head_dim = query_shape
    num_kv_heads = key_shape[1]
    row = entry_of(kernel.__name__, arch, dtype, block_dim(head_dim))
    by_keys = kernel is cascaded_key_backward
    block = row.block_n if by_keys else row.block
    partial_blocks = -(-num_partial // block)
    num_blocks = partial_blocks + -(-(num_tokens - num_partial) // block)
    constants = {
        "GROUP": num_heads // num_kv_heads,
        "HEAD_DIM": head_dim,
        "BLOCK_D": block_dim(head_dim),
        "BLOCK_M": row.block,
        "BLOCK_N": row.block_n,
        "CLAMP": edge == "clamp",
        "PRECISION": dot_precision(dtype),
    }
    if has_grad_lse is not None:
        constants["HAS_GRAD_LSE"] = has_grad_lse
    grid = (batch * (num_kv_heads if by_keys else num_heads) * num_blocks,)
    sizes = (num_heads, num_partial, num_tokens, window, partial_blocks, num_blocks)
    return Parameters(kernel, grid, sizes, constants, row.num_warps, row.num_stages)
