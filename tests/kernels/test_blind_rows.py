"""Rows that see nothing: every score minus infinity, or no key at all. Out is 0, lse minus infinity, every gradient 0."""

import pytest
import torch

from pargo_kernels.torch_path import partial_global as torch_path
from pargo_kernels.torch_path.softmax import softmax_
from tests.kernels.made.corners import NAMES, cascaded, partial_global, results

LAYOUTS = {
    "partial-global": partial_global(4, 3, 10, dim=8),
    "partial-global, equal slices": partial_global(4, 3, 12, dim=8),
    "partial-global, long slices": partial_global(2, 3, 300, dim=8),
    "partial-global, packed": partial_global(
        4, 3, 22, dim=8, batch=2, cu_seqlens_k=torch.tensor([0, 10, 22], dtype=torch.int32)
    ),
    "cascaded": cascaded(9, 3, 4, dim=8),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_row_whose_every_score_overflows_to_minus_infinity(backend, name):
    problem = LAYOUTS[name]
    query, key, value, grad_out, grad_lse = problem.tensors(backend.device)
    # 1e30 times -1e30 is minus infinity in fp32; the other rows of queries are 0 and weigh their keys alike
    blind = torch.arange(problem.num_query, device=backend.device) % 2 == 0
    query.copy_(torch.where(blind[:, None], 1e30, 0.0).expand_as(query))
    key.fill_(-1e30)
    out, lse, *grads = results(problem, (query, key, value, grad_out, grad_lse), impl=backend.impl)
    seen = results(problem, (torch.zeros_like(query), key, value, grad_out, grad_lse), impl="reference")
    assert (out[:, :, blind] == 0).all()
    assert torch.isneginf(lse[:, :, blind]).all()
    assert (grads[0][:, :, blind] == 0).all()
    torch.testing.assert_close(out[:, :, ~blind], seen[0][:, :, ~blind], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse[:, :, ~blind], seen[1][:, :, ~blind], rtol=1e-5, atol=1e-5)
    # no row that is seen has a query: keys get their gradient from queries alone
    assert (grads[1] == 0).all()
    grad_out[:, :, blind] = 0
    expected = results(problem, (torch.zeros_like(query), key, value, grad_out, grad_lse), impl="reference")[4]
    torch.testing.assert_close(grads[2], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_partial", (2, 0), ids=("partial rows", "global rows only"))
def test_a_packed_image_without_keys_on_the_torch_path(monkeypatch, num_partial):
    # contents of offsets are read on a CPU; on a device they are not, and there such an image comes this far
    monkeypatch.setattr(torch_path, "check_offsets", lambda *_: None)
    offsets = torch.tensor([0, 0, 7, 7], dtype=torch.int32)
    problem = partial_global(num_partial, 2, 7, dim=8, batch=3, cu_seqlens_k=offsets)
    query, key, value, grad_out, grad_lse = problem.tensors()
    out, lse = torch_path.forward(query, key, value, offsets, num_partial, 0.3)
    grads = torch_path.backward(grad_out, grad_lse, query, key, value, offsets, out, lse, num_partial, 0.3)
    alone = partial_global(num_partial, 2, 7, dim=8)._replace(arguments={"num_partial": num_partial, "scale": 0.3})
    row = slice(1, 2)
    expected = results(alone, (query[row], key, value, grad_out[row], grad_lse[row]), impl="reference")
    own = (out[row], lse[row], grads[0][row], *grads[1:])
    for name, ours, exact in zip(NAMES, own, expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-5, msg=name)
    for image in (0, 2):
        assert (out[image] == 0).all()
        assert torch.isneginf(lse[image]).all()
        assert (grads[0][image] == 0).all()


def test_softmax_of_the_torch_path_beside_torchs_own():
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 4, 5, dtype=torch.double)
    scores[1, 2, :, 3:] = float("-inf")
    expected, sums = scores.softmax(-1), scores.logsumexp(-1)
    scores[0, 1] = float("-inf")
    expected[0, 1], sums[0, 1] = 0, float("-inf")
    weights, lse = softmax_(scores)
    # in place
    assert weights.data_ptr() == scores.data_ptr()
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(lse, sums)
