"""Outputs and gradients against the fp64 oracle: at most twice the error of a dense attention in the same precision."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pargo_kernels.dispatch import interpreting
from pargo_kernels.reference import cascaded_mask, partial_global_mask
from tests.kernels.layouts import Problem, cascaded_problems, partial_global_problems

NAMES = ("out", "lse", "grad_query", "grad_key", "grad_value")
# an interpreted kernel takes a second where a compiled one takes microseconds
EXAMPLES, MAX_KEYS, MAX_TOKENS = (12, 120, 80) if interpreting() else (60, 300, 150)


def results(problem, tensors, **options):
    """(out, lse, grad_query, grad_key, grad_value) of the op."""
    query, key, value, grad_out, grad_lse = tensors
    inputs = [t.detach().requires_grad_() for t in (query, key, value)]
    out, lse = problem(*inputs, return_lse=True, **options)
    return out.detach(), lse.detach(), *torch.autograd.grad((out, lse), inputs, (grad_out, grad_lse.to(lse.dtype)))


def dense(problem, tensors):
    """The same from a dense attention in the inputs' own dtype, mask and all, image by image."""
    query, key, value, grad_out, grad_lse = tensors
    inputs = [t.detach().clone().requires_grad_() for t in (query, key, value)]
    q, k, v = inputs
    group = problem.heads // problem.kv_heads
    k, v = (t.repeat_interleave(group, 1) for t in (k, v))
    scale = problem.arguments["scale"] or problem.dim**-0.5
    outs, lses = [], []
    offsets = problem.arguments.get("cu_seqlens_k")
    images = [(slice(None), slice(None))] if offsets is None else []
    if offsets is not None:
        bounds = offsets.tolist()
        images = [(slice(i, i + 1), slice(*bounds[i : i + 2])) for i in range(problem.batch)]
    for image, keys in images:
        k_image, v_image = (t[:, :, keys] for t in (k, v))
        mask = dense_mask(problem, k_image.shape[2]).to(q.device)
        scores = ((q[image] @ k_image.transpose(-1, -2)) * scale).masked_fill(~mask, -math.inf)
        outs.append(torch.softmax(scores, -1) @ v_image)
        lses.append(torch.logsumexp(scores.float() if scores.dtype != torch.float64 else scores, -1))
    out, lse = torch.cat(outs), torch.cat(lses)
    return out.detach(), lse.detach(), *torch.autograd.grad((out, lse), inputs, (grad_out, grad_lse.to(lse.dtype)))


def dense_mask(problem, num_keys):
    arguments = problem.arguments
    if problem.op == "partial_global":
        return partial_global_mask(arguments["num_partial"], problem.num_query, num_keys)
    return cascaded_mask(arguments["num_partial"], problem.num_query, arguments["window"], arguments["edge"])


def natural_scales(problem, tensors):
    """What one fp32 rounding of the scores can move each result by, in units of the rounding error.

    A score s rounded in fp32 moves its weight by a relative eps * |s|, in any algorithm.
    """
    query, key, value, grad_out, grad_lse = (t.double().abs() for t in tensors)
    scale = problem.arguments["scale"] or problem.dim**-0.5
    score = 1 + query.max() * key.max() * problem.dim**0.5 * scale
    grad = score * (grad_out.max() * value.max() * problem.dim**0.5 + grad_lse.max())
    rows = (problem.num_query * problem.heads / problem.kv_heads) ** 0.5
    return (
        score * value.max(),
        score,
        grad * key.max() * scale,
        rows * grad * query.max() * scale,
        rows * score * grad_out.max(),
    )


def check_accuracy(problem, backend):
    tensors = problem.tensors(backend.device)
    exact = results(problem, [t.double() for t in tensors], impl="reference")
    ours = results(problem, tensors, impl=backend.impl)
    peers = dense(problem, tensors)
    scales = natural_scales(problem, tensors)
    for name, x, y, peer, scale in zip(NAMES, exact, ours, peers, scales, strict=True):
        assert y.isfinite().all(), f"{name} is not finite"
        # rounding the result, and fp32 rounding of its largest terms, is allowed to anyone
        rounding = torch.finfo(y.dtype).eps / 2 * x.abs().max() + torch.finfo(torch.float32).eps * scale
        if problem.dtype == torch.float64:
            rounding = 1e-13 * scale
        error, budget = (y.double() - x).abs().max(), 2 * (peer.double() - x).abs().max() + rounding
        assert error <= budget, f"{name}: error {error:.2e}, budget {budget:.2e}"


@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_partial_global_attention(backend, data):
    check_accuracy(data.draw(partial_global_problems(MAX_KEYS, backend.dtypes)), backend)


@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_cascaded_partial_attention(backend, data):
    check_accuracy(data.draw(cascaded_problems(MAX_TOKENS, backend.dtypes)), backend)


@pytest.mark.long
@given(data=st.data())
@settings(max_examples=5 * EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_many_more_layouts(backend, data):
    problems = (partial_global_problems(MAX_KEYS, backend.dtypes), cascaded_problems(MAX_TOKENS, backend.dtypes))
    check_accuracy(data.draw(st.one_of(*problems)), backend)


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


@pytest.mark.parametrize("name", CORNERS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16), ids=lambda d: str(d)[6:])
def test_corner(backend, name, dtype):
    check_accuracy(CORNERS[name]._replace(dtype=dtype), backend)
