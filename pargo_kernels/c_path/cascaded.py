"""Cascaded attention by the C kernels."""

from __future__ import annotations

import torch

from pargo_kernels.c_path.call import ABSENT, rows, run, whole
from pargo_kernels.c_path.library import kernel


def forward(query, key, value, window, num_partial, edge, scale):
    """Returns out like query and lse fp32 ``[B, H, n]``."""
    function = kernel("cascaded_forward", query)
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    places = (*whole(query), *whole(key), *whole(value), *whole(out), *rows(lse), *ABSENT, *ABSENT, *ABSENT, *ABSENT, *ABSENT)
    run(function, places, query, key, num_partial, scale, window=window, clamp=edge == "clamp")
    return out, lse


def backward(grad_out, grad_lse, query, key, value, out, lse, window, num_partial, edge, scale):
    """Returns the gradients of query, key and value. ``grad_lse`` may be None."""
    function = kernel("cascaded_backward", query)
    grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    places = (
        *whole(query), *whole(key), *whole(value), *whole(out), *rows(lse),
        *whole(grad_out), *(ABSENT if grad_lse is None else rows(grad_lse)), *whole(grads[0]), *whole(grads[1]), *whole(grads[2]),
    )  # fmt: skip
    run(function, places, query, key, num_partial, scale, window=window, clamp=edge == "clamp")
    return grads
