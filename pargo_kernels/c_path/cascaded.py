"""Cascaded attention by the C kernels."""

from __future__ import annotations

from pargo_kernels.c_path.call import attend, differentiate
from pargo_kernels.c_path.library import kernel


def forward(query, key, value, window, num_partial, edge, scale):
    """Returns out like query and lse fp32 ``[B, H, n]``."""
    function = kernel("cascaded_forward", query)
    return attend(function, query, key, value, num_partial, scale, window=window, clamp=edge == "clamp")


def backward(grad_out, grad_lse, query, key, value, out, lse, window, num_partial, edge, scale):
    """Returns the gradients of query, key and value. ``grad_lse`` may be None."""
    function = kernel("cascaded_backward", query)
    tensors = (grad_out, grad_lse, query, key, value, out, lse)
    return differentiate(function, *tensors, num_partial, scale, window=window, clamp=edge == "clamp")
