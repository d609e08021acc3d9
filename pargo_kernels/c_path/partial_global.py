"""Partial-global attention by the C kernels."""

from __future__ import annotations

from array import array

import torch

from pargo_kernels.c_path.call import ABSENT, rows, run, whole
from pargo_kernels.c_path.library import kernel
from pargo_kernels.checks import check_offsets


def forward(query, key, value, cu_seqlens_k, num_partial, scale):
    """Returns out like query and lse fp32 ``[B, H, n_q]``."""
    function = kernel("partial_global_forward", query)
    offsets = _offsets(query, key, cu_seqlens_k, num_partial)
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    places = (*whole(query), *whole(key), *whole(value), *whole(out), *rows(lse), *ABSENT, *ABSENT, *ABSENT, *ABSENT, *ABSENT)
    run(function, places, query, key, num_partial, scale, offsets=offsets)
    return out, lse


def backward(grad_out, grad_lse, query, key, value, cu_seqlens_k, out, lse, num_partial, scale):
    """Returns the gradients of query, key and value. ``grad_lse`` may be None."""
    function = kernel("partial_global_backward", query)
    offsets = _offsets(query, key, cu_seqlens_k, num_partial)
    grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    places = (
        *whole(query), *whole(key), *whole(value), *whole(out), *rows(lse),
        *whole(grad_out), *(ABSENT if grad_lse is None else rows(grad_lse)), *whole(grads[0]), *whole(grads[1]), *whole(grads[2]),
    )  # fmt: skip
    run(function, places, query, key, num_partial, scale, offsets=offsets)
    return grads


def _offsets(query, key, cu_seqlens_k, num_partial) -> array | None:
    """Checked, and a copy: nothing that another thread does to the tensor meanwhile reaches the kernels."""
    if cu_seqlens_k is None:
        return None
    offsets = cu_seqlens_k.tolist()
    if len(offsets) != query.shape[0] + 1:
        raise ValueError(f"cu_seqlens_k holds {len(offsets)} offsets; it must hold batch + 1 = {query.shape[0] + 1}.")
    check_offsets(offsets, key.shape[2], num_partial)
    return array("i", offsets)
