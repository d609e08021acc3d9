"""The contrastive patch loss."""

import torch
from torch.nn import functional

from pargo_mllm.alignment.loss import contrastive_patch_loss, directions


def test_it_is_the_cross_entropy_of_cosines_over_the_temperature():
    drawn = torch.Generator().manual_seed(0)
    tokens, words, mean = (torch.randn(*shape, generator=drawn, dtype=torch.float64) for shape in ((2, 3, 5), (4, 5), (5,)))
    weights = torch.tensor(
        [[[1, 0, 0, 0], [0.25, 0, 0.75, 0], [0, 0, 0, 0]], [[0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]]
    ).double()
    known = directions(words, mean)
    total, count = contrastive_patch_loss(tokens, weights, known[None].expand(2, -1, -1), mean, 0.5)
    expected = 0.0
    for image, token in ((0, 0), (0, 1), (1, 0), (1, 2)):
        cosines = [functional.cosine_similarity(tokens[image, token] - mean, word - mean, dim=0) for word in words]
        expected += functional.cross_entropy(torch.stack(cosines)[None] / 0.5, weights[image, token][None])
    assert count == 4
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)


def test_words_that_are_none_change_nothing():
    drawn = torch.Generator().manual_seed(1)
    tokens = torch.randn(1, 2, 5, generator=drawn, requires_grad=True)
    words = directions(torch.randn(1, 3, 5, generator=drawn), torch.zeros(5))
    weights, mean = torch.tensor([[[1.0, 0, 0], [0, 0.5, 0.5]]]), torch.zeros(5)
    total, _ = contrastive_patch_loss(tokens, weights, words, mean)
    wider = functional.pad(weights, (0, 2)), functional.pad(words, (0, 0, 0, 2))
    padded, _ = contrastive_patch_loss(tokens, *wider, mean)
    assert padded == total
    (gradient,) = torch.autograd.grad(padded, tokens)
    assert gradient.isfinite().all()
    assert gradient.any()


def test_no_token_with_a_label_is_no_loss_and_no_gradient():
    tokens = torch.ones(1, 2, 5, requires_grad=True)
    total, count = contrastive_patch_loss(tokens, torch.zeros(1, 2, 0), torch.zeros(1, 0, 5), torch.zeros(5))
    assert (total, count) == (0, 0)
    (gradient,) = torch.autograd.grad(total, tokens)
    assert not gradient.any()
