"""merge_attention_states against attention over all keys at once."""

import pytest
import torch

from pargo_kernels.merge import merge_attention_states
from pargo_kernels.partial_global_attention import partial_global_attention


def tensors(*shape, dtype=torch.double):
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(2)]


def test_halves_of_the_keys_merge_to_the_whole(backend):
    torch.manual_seed(0)
    query = torch.randn(2, 4, 5, 16, device=backend.device, requires_grad=True)
    key, value = (torch.randn(2, 2, 40, 16, device=backend.device, requires_grad=True) for _ in range(2))

    def halves():
        parts = [
            partial_global_attention(query, key[:, :, s], value[:, :, s], 0, return_lse=True, impl=backend.impl)
            for s in (slice(0, 13), slice(13, 40))
        ]
        return merge_attention_states(*parts[0], *parts[1])

    def whole():
        return partial_global_attention(query, key, value, 0, return_lse=True, impl="reference")

    results = []
    for compute in (halves, whole):
        out, lse = compute()
        loss = out.square().sum() + lse.sin().sum()
        results.append([out, lse, *torch.autograd.grad(loss, (query, key, value))])
    for merged, exact in zip(*results, strict=True):
        torch.testing.assert_close(merged, exact, rtol=1e-5, atol=1e-5)


def test_gradcheck_through_the_merge():
    torch.manual_seed(0)
    (out_a, out_b), (lse_a, lse_b) = tensors(1, 2, 3, 4), tensors(1, 2, 3)
    assert torch.autograd.gradcheck(merge_attention_states, (out_a, lse_a, out_b, lse_b))


@pytest.mark.parametrize("blind", ["a", "b", "both"])
def test_a_row_that_saw_nothing_weighs_nothing(blind):
    torch.manual_seed(0)
    (out_a, out_b), (lse_a, lse_b) = tensors(1, 1, 2, 4), tensors(1, 1, 2)
    with torch.no_grad():
        for name, out, lse in (("a", out_a, lse_a), ("b", out_b, lse_b)):
            if blind in (name, "both"):
                lse[..., 0] = float("-inf")
                out[..., 0, :] = float("nan")
    out, lse = merge_attention_states(out_a, lse_a, out_b, lse_b)
    seen = {"a": (out_b, lse_b), "b": (out_a, lse_a)}.get(blind)
    if seen is None:
        assert (out[..., 0, :] == 0).all()
        assert torch.isneginf(lse[..., 0]).all()
    else:
        torch.testing.assert_close(out[..., 0, :], seen[0][..., 0, :])
        torch.testing.assert_close(lse[..., 0], seen[1][..., 0])
    grads = torch.autograd.grad(out.sum() + lse[..., 1:].sum(), (out_a, lse_a, out_b, lse_b))
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("far", (200.0, 88.0))
def test_one_side_that_outweighs_the_other_is_the_result(far):
    torch.manual_seed(0)
    out_a, out_b = tensors(1, 1, 2, 4, dtype=torch.float32)
    lse_a, lse_b = (torch.tensor([[x]], requires_grad=True) for x in ([0.0, far], [far, 0.0]))
    out, lse = merge_attention_states(out_a, lse_a, out_b, lse_b)
    torch.testing.assert_close(out, torch.stack((out_b[:, :, 0], out_a[:, :, 1]), dim=2))
    assert lse.tolist() == [[[far, far]]]
    grads = torch.autograd.grad(out.sum() + lse.sum(), (out_a, lse_a, out_b, lse_b))
    shares = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
    for share, grad_out, grad_lse in ((shares[0], *grads[:2]), (shares[1], *grads[2:])):
        torch.testing.assert_close(grad_lse, share)
        torch.testing.assert_close(grad_out, share.unsqueeze(-1).expand_as(grad_out))


def test_far_apart_and_huge_sums_do_not_overflow():
    out_a, out_b = torch.ones(1, 1, 2, 3), torch.full((1, 1, 2, 3), 2.0)
    lse_a, lse_b = torch.tensor([[[1e4, -1e4]]]), torch.tensor([[[-1e4, -1e4]]])
    out, lse = merge_attention_states(out_a, lse_a, out_b, lse_b)
    assert out.tolist() == [[[[1.0] * 3, [1.5] * 3]]]
    torch.testing.assert_close(lse, torch.tensor([[[1e4, -1e4 + 0.6931472]]]))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"out_b": torch.zeros(1, 1, 3, 4)}, ValueError, "out_a is [1, 1, 2, 4]"),
        ({"lse_b": torch.zeros(1, 1, 2).half()}, ValueError, "lse_b [1, 1, 2] torch.float16"),
        ({"lse_a": torch.zeros(1, 1, 3), "lse_b": torch.zeros(1, 1, 3)}, ValueError, "lse must be out without its last"),
        ({"out_a": None}, TypeError, "out_a is a NoneType"),
        (dict.fromkeys(("out_a", "out_b"), torch.zeros(1, 1, 2, 4).int()), TypeError, "out_a is torch.int32; use float16"),
        (dict.fromkeys(("out_a", "out_b"), torch.zeros(1, 1, 2, 4).cfloat()), TypeError, "out_a is torch.complex64; use"),
        (dict.fromkeys(("lse_a", "lse_b"), torch.zeros(1, 1, 2).int()), TypeError, "lse_a is torch.int32 beside outputs in"),
        (dict.fromkeys(("lse_a", "lse_b"), torch.zeros(1, 1, 2).bfloat16()), TypeError, "lse_a is torch.bfloat16 beside"),
        (dict.fromkeys(("out_a", "out_b"), torch.zeros(1, 1, 2, 4).double()), TypeError, "it must be float32, or float64"),
        (dict.fromkeys(("out_a", "out_b"), torch.zeros(1, 2, 4)), ValueError, "out_a has shape [1, 2, 4]; it must have 4"),
        ({"out_a": torch.zeros(1, 1, 2, 4).to_sparse()}, TypeError, "out_a has layout torch.sparse_coo; it must be a strided"),
    ],
)
def test_states_that_do_not_fit_are_refused(change, error, words):
    states = {"out_a": torch.zeros(1, 1, 2, 4), "out_b": torch.zeros(1, 1, 2, 4)}
    states |= {"lse_a": torch.zeros(1, 1, 2), "lse_b": torch.zeros(1, 1, 2)} | change
    with pytest.raises(error) as caught:
        merge_attention_states(**states)
    assert words in str(caught.value)
