"""Outputs and gradients against the fp64 oracle: at most twice the error of a dense attention in the same precision."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pargo_kernels.dispatch import interpreting
from pargo_kernels.reference import cascaded_mask, partial_global_mask
from tests.kernels.made.corners import CORNERS, NAMES, cascaded, partial_global, results
from tests.kernels.made.layouts import cascaded_problems, partial_global_problems

# an interpreted kernel takes a second where a compiled one takes microseconds
EXAMPLES, MAX_KEYS, MAX_TOKENS = (12, 120, 80) if interpreting() else (60, 300, 150)


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


@pytest.mark.parametrize("name", CORNERS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16), ids=lambda d: str(d)[6:])
def test_corner(backend, name, dtype):
    if dtype not in backend.dtypes:
        pytest.skip(f"the C compiler here does not know {dtype}")
    check_accuracy(CORNERS[name]._replace(dtype=dtype), backend)


@pytest.mark.parametrize("scale", (0.0, -1.5))
@pytest.mark.parametrize(
    "problem",
    (partial_global(5, 2, 13, dim=8), partial_global(2, 2, 70, dim=8), cascaded(9, 2, 4, dim=8)),
    ids=("short slices", "long slices", "band"),
)
def test_a_scale_that_is_not_positive_shows_no_hidden_cell(backend, problem, scale):
    problem = problem._replace(arguments=problem.arguments | {"scale": scale})
    tensors = problem.tensors(backend.device)
    ours, exact = results(problem, tensors, impl=backend.impl), results(problem, tensors, impl="reference")
    for name, x, y in zip(NAMES, ours, exact, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
