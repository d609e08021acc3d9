"""The patch loss: closed forms, its definition written out, and its gradient by finite differences."""

import math

import pytest
import torch

from pargo_mllm.alignment.loss import contrastive_patch_loss, cosine_patch_loss, directions, weight_at


@pytest.fixture
def drawn():
    """Tokens [2, 5, 6], weights [2, 5, 3] of which some rows say nothing, words [2, 3, 6] and their mean [6], in fp64."""
    generator = torch.Generator().manual_seed(3)
    tokens, vectors, mean = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((2, 5, 6), (2, 3, 6), (6,))
    )
    weights = torch.rand(2, 5, 3, generator=generator, dtype=torch.float64)
    weights[0, 1] = weights[1, 4] = 0.0
    weights[1, 0] = torch.tensor([0.0, 1.0, 0.0])
    return tokens, weights, directions(vectors, mean), mean


def test_it_is_what_its_definition_says(drawn):
    tokens, weights, words, mean = drawn
    away = []
    for image in range(2):
        for token in range(5):
            said = weights[image, token].tolist()
            if not any(said):
                continue
            target = sum(share * words[image, label] for label, share in enumerate(said))
            seen = tokens[image, token] - mean
            away.append(1 - float(seen @ target) / math.sqrt(float(seen @ seen) * float(target @ target)))
    total, labelled = cosine_patch_loss(*drawn)
    assert int(labelled) == len(away) == 8
    assert float(total) == pytest.approx(sum(away), abs=1e-12)


@pytest.mark.parametrize("loss", [cosine_patch_loss, contrastive_patch_loss])
def test_its_gradient_is_that_of_finite_differences(drawn, loss):
    tokens, weights, words, mean = drawn
    tokens.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda given: loss(given, weights, words, mean)[0], (tokens,), eps=1e-6, atol=1e-8)
    (gradient,) = torch.autograd.grad(loss(tokens, weights, words, mean)[0], tokens)
    assert (gradient[0, 1] == 0).all()
    assert (gradient[0, 0] != 0).any()
    # a cosine does not change along the token itself
    assert torch.einsum("itc,itc->it", gradient, tokens - mean).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("turned", "loss"), [((2.0, 0.0), 0.0), ((0.0, 3.0), 1.0), ((-0.5, 0.0), 2.0), ((1.0, 1.0), 1 - 0.5**0.5)]
)
def test_closed_forms(turned, loss):
    mean = torch.tensor([1.0, 2.0])
    word = directions(torch.tensor([[[5.0, 2.0]]]), mean)
    assert word.tolist() == [[[1.0, 0.0]]]
    total, labelled = cosine_patch_loss((mean + torch.tensor(turned))[None, None], torch.ones(1, 1, 1), word, mean)
    assert (float(total), int(labelled)) == (pytest.approx(loss, abs=1e-6), 1)


@pytest.mark.parametrize("case", ["no label", "labels that cancel", "a word that is the mean", "a token that is the mean"])
def test_what_has_no_direction_gives_no_loss_and_finite_gradients(case):
    mean, weights = torch.tensor([1.0, 2.0, 3.0]), torch.full((1, 1, 2), 0.5)
    words = directions(torch.stack([mean + 1, mean - 1])[None], mean)
    tokens = torch.full((1, 1, 3), 0.3)
    if case == "no label":
        weights = torch.zeros(1, 1, 2)
    elif case == "a word that is the mean":
        words = directions(torch.stack([mean, mean])[None], mean)
    elif case == "a token that is the mean":
        tokens, words = mean[None, None].clone(), words[:, :1].expand(1, 2, 3)
    tokens.requires_grad_(True)
    total, labelled = cosine_patch_loss(tokens, weights, words, mean)
    total.backward()
    assert total.item() == int(labelled) == (case == "a token that is the mean")
    assert tokens.grad.isfinite().all()


def test_its_weight_rises_over_its_share_of_the_steps():
    assert [weight_at(step, 8, 0.5, 0.5) for step in range(6)] == [0.0, 0.125, 0.25, 0.375, 0.5, 0.5]
    assert weight_at(0, 8, 0.5, 0.0) == 0.5
    assert weight_at(7, 8, 0.5, 1.0) == 0.5 * 7 / 8
