"""Partial-global attention by the C kernels."""

from __future__ import annotations

from array import array

from pargo_kernels.c_path.call import attend, differentiate
from pargo_kernels.c_path.library import kernel
from pargo_kernels.checks import check_offsets


def forward(query, key, value, cu_seqlens_k, num_partial, scale):
    """Returns out like query and lse fp32 ``[B, H, n_q]``."""
    function, offsets = kernel("partial_global_forward", query), _offsets(query, key, cu_seqlens_k, num_partial)
    return attend(function, query, key, value, num_partial, scale, offsets=offsets)


def backward(grad_out, grad_lse, query, key, value, cu_seqlens_k, out, lse, num_partial, scale):
    """Returns the gradients of query, key and value. ``grad_lse`` may be None."""
    function, offsets = kernel("partial_global_backward", query), _offsets(query, key, cu_seqlens_k, num_partial)
    tensors = (grad_out, grad_lse, query, key, value, out, lse)
    return differentiate(function, *tensors, num_partial, scale, offsets=offsets)


def _offsets(query, key, cu_seqlens_k, num_partial) -> array | None:
    # checked, and a copy: nothing that another thread does to the tensor meanwhile reaches the kernels
    if cu_seqlens_k is None:
        return None
    offsets = cu_seqlens_k.tolist()
    if len(offsets) != query.shape[0] + 1:
        raise ValueError(f"cu_seqlens_k holds {len(offsets)} offsets; it must hold batch + 1 = {query.shape[0] + 1}.")
    check_offsets(offsets, key.shape[2], num_partial)
    return array("i", offsets)
