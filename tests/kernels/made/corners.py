"""Corner cases by name, and an op's results with its gradients."""

import torch

from tests.kernels.made.layouts import Problem

NAMES = ("out", "lse", "grad_query", "grad_key", "grad_value")


def results(problem, tensors, **options):
    """(out, lse, grad_query, grad_key, grad_value) of the op."""
    query, key, value, grad_out, grad_lse = tensors
    inputs = [t.detach().requires_grad_() for t in (query, key, value)]
    out, lse = problem(*inputs, return_lse=True, **options)
    return out.detach(), lse.detach(), *torch.autograd.grad((out, lse), inputs, (grad_out, grad_lse.to(lse.dtype)))


def partial_global(num_partial, num_global, num_keys, dim=32, heads=2, kv_heads=1, batch=1, **extra):
    arguments = {"num_partial": num_partial, "scale": None} | extra
    return Problem("partial_global", batch, heads, kv_heads, num_partial + num_global, num_keys, dim, arguments)


def cascaded(num_partial, num_global, window, edge="clamp", dim=32, heads=2, kv_heads=1):
    arguments = {"window": window, "num_partial": num_partial, "edge": edge, "scale": None}
    tokens = num_partial + num_global
    return Problem("cascaded", 1, heads, kv_heads, tokens, tokens, dim, arguments)


CORNERS = {
    "the paper's layer": partial_global(288, 16, 576, dim=64, heads=1, kv_heads=1),
    "one key a row": partial_global(70, 16, 70),
    "one row sees everything": partial_global(1, 0, 300),
    "no partial rows": partial_global(0, 5, 300),
    "no global rows": partial_global(40, 0, 100),
    "nearly two keys a row": partial_global(100, 4, 199),
    "long unequal slices": partial_global(3, 2, 400),
    "several chunks": partial_global(360, 3, 1100, dim=16, heads=1, kv_heads=1),
    "more global rows than a block": partial_global(10, 70, 64),
    "a group of eight heads": partial_global(9, 3, 50, heads=8),
    "a head dimension that is not a power of two": partial_global(20, 4, 60, dim=80),
    "a head dimension of 256": partial_global(20, 4, 60, dim=256),
    "a head dimension of 1": partial_global(20, 4, 60, dim=1),
    "packed, several chunks": partial_global(
        5, 2, 1300, dim=16, batch=3, cu_seqlens_k=torch.tensor([0, 1100, 1106, 1300], dtype=torch.int32)
    ),
    "packed without partial rows": partial_global(
        0, 2, 1300, dim=16, batch=3, cu_seqlens_k=torch.tensor([0, 1100, 1101, 1300], dtype=torch.int32)
    ),
    "the paper's first layer": cascaded(288, 0, 48, dim=64, heads=1, kv_heads=1),
    "the paper's last layer": cascaded(288, 0, 288, dim=64, heads=1, kv_heads=1),
    "each token sees itself": cascaded(150, 0, 1),
    "a truncated full window": cascaded(150, 0, 150, edge="truncate"),
    "global tokens among themselves": cascaded(100, 20, 30),
    "only global tokens": cascaded(0, 20, 1),
    "one token": cascaded(1, 0, 1),
    "cascade with a head dimension of 256": cascaded(60, 3, 7, dim=256),
    "cascade with a group of eight heads": cascaded(60, 3, 7, heads=8),
}
