"""Cascaded attention on the Triton kernels: planning the launches."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pargo_kernels.registration import lse_dtype
from pargo_kernels.triton_path.cascaded_backward import cascaded_key_backward, cascaded_query_backward
from pargo_kernels.triton_path.cascaded_forward import cascaded_forward
from pargo_kernels.triton_path.held import Calls
from pargo_kernels.triton_path.launch import Launch, Parameters, block_dim, dot_precision, table_dim
from pargo_kernels.triton_path.launch_table import architecture, entry_of, remembered
from pargo_kernels.triton_path.tiles import strided, vector


def forward(query, key, value, window, num_partial, edge, scale):
    """Returns out like query and lse fp32 ``[B, H, n]``."""
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=lse_dtype(query.dtype))
    _forward(query, key, (query, key, value), (out, lse), (window, num_partial, edge), scale)
    return out, lse


def backward(grad_out, grad_lse, query, key, value, out, lse, window, num_partial, edge, scale):
    """Returns the gradients of query, key and value. ``grad_lse`` may be None."""
    grads = (torch.empty_like(query), torch.empty_like(key), torch.empty_like(value))
    inputs = (grad_out, grad_lse, query, key, value, out, lse)
    _backward(query, key, inputs, grads, (window, num_partial, edge), scale)
    return grads


def forward_launches(query, key, value, out, lse, window, num_partial, edge, scale, arch=None) -> Iterator[Launch]:
    """The launch of a forward.

    ``arch`` names the launch table's architecture; the query's device by default. Tensors may be on "meta".
    """
    q, o = strided(query, out)
    k, v = strided(key, value)
    arch, dim = arch or architecture(query.device), table_dim(query.shape[3], (q, k))
    layout = (query.shape, key.shape, window, num_partial, edge, query.dtype, arch, dim)
    yield plan(cascaded_forward, *layout).launch(q, k, v, o, vector(lse), scale)


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
    (do,) = strided(grad_out)
    q, o, dq = strided(query, out, grad_query)
    k, v, dk, dv = strided(key, value, grad_key, grad_value)
    dlse = None if grad_lse is None else vector(grad_lse)
    arch, dim = arch or architecture(query.device), table_dim(query.shape[3], (do, q, k))
    layout = (query.shape, key.shape, window, num_partial, edge, query.dtype, arch, dim)
    s, delta = vector(lse), vector(torch.empty_like(lse))
    by_rows = plan(cascaded_query_backward, *layout, has_grad_lse=grad_lse is not None)
    yield by_rows.launch(do, dlse, q, k, v, o, s, delta, dq, scale)
    yield plan(cascaded_key_backward, *layout).launch(do, q, k, v, s, delta, dk, dv, scale)


@remembered
def plan(kernel, query_shape, key_shape, window, num_partial, edge, dtype, arch, dim, has_grad_lse=None) -> Parameters:
    """A launch of one of the kernels; ``has_grad_lse`` where the kernel asks for it."""
    batch, num_heads, num_tokens, head_dim = query_shape
    num_kv_heads = key_shape[1]
    row = entry_of(kernel.__name__, arch, dtype, dim)
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


_forward, _backward = Calls(forward_launches), Calls(backward_launches)
