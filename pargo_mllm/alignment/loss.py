"""The patch loss: a picture's tokens are to say the words that are true of what they show.

Our choice, in both its forms, for the text of the method could not be read. A label's vector is the mean input embedding of
its tokens, centred by the mean embedding of the whole vocabulary and normalised; a token is centred alike. The cosine loss of
a token is one minus its cosine to the sum of its labels' vectors, each weighed by what it says of the token. The contrastive
one takes cosines over a temperature for logits: the token is to be nearer to its labels than to all other words. On real
features and a real vocabulary more patches of unseen photographs are named right after it (docs/alignment.md).
"""

from __future__ import annotations

import torch

COSINE, CONTRASTIVE = "cosine", "contrastive"
FORMS = (COSINE, CONTRASTIVE)
#: of several that were tried on real parts, within photographs that training may see
TEMPERATURE = 0.07
# no direction: a sum of vectors that cancel each other out
_NOTHING = 1e-6
# as in torch's cosine_similarity
_EPSILON = 1e-8


def cosine_patch_loss(
    tokens: torch.Tensor, weights: torch.Tensor, words: torch.Tensor, mean: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of the losses of the tokens that have a label, and how many these are: scalars, in fp32 (fp64 for fp64).

    Without any such token the sum is 0, and so is its gradient.

    Args:
        tokens: ``[images, tokens, C]``, what the projector gives to the language model.
        weights: ``[images, tokens, labels]``, as :func:`~pargo_mllm.alignment.labels.token_labels` gives them.
        words: ``[images, labels, C]``, the labels' vectors (:func:`directions`).
        mean: ``[C]``, of the language model's input embeddings.
    """
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    weights, words = weights.to(dtype), words.to(dtype)
    seen = tokens.to(dtype) - mean.to(dtype)
    # targets are never laid out: [images, tokens, labels] in place of [images, tokens, C]
    along = (weights * (seen @ words.mT)).sum(-1)
    squares = (weights * (weights @ (words @ words.mT))).sum(-1)
    labelled = squares > _NOTHING**2
    lengths = torch.linalg.vector_norm(seen, dim=-1) * squares.where(labelled, 1.0).sqrt()
    away = 1 - along / lengths.clamp(min=_EPSILON)
    return away.where(labelled, 0.0).sum(), labelled.sum()


def contrastive_patch_loss(
    tokens: torch.Tensor,
    weights: torch.Tensor,
    words: torch.Tensor,
    mean: torch.Tensor,
    temperature: float = TEMPERATURE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of the losses of the tokens that have a label, and how many these are: scalars, in fp32 (fp64 for fp64).

    Without any such token the sum is 0, and so is its gradient. A word without a direction, all zeros, is none to choose from.

    Args:
        tokens: ``[images, tokens, C]``, what the projector gives to the language model.
        weights: ``[images, tokens, words]``, as :func:`~pargo_mllm.alignment.labels.token_labels` gives them: rows sum to 1, or
            to 0.
        words: ``[images, words, C]``, those that a token is to choose from (:func:`directions`).
        mean: ``[C]``, of the language model's input embeddings.
        temperature: what cosines are divided by.
    """
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    weights, words = weights.to(dtype), words.to(dtype)
    directions = torch.nn.functional.normalize(tokens.to(dtype) - mean.to(dtype), dim=-1)
    logits = directions @ words.mT / temperature
    none = (words == 0).all(-1)[:, None]
    likely = logits.masked_fill(none, torch.finfo(dtype).min).log_softmax(-1)
    labelled = weights.sum(-1) > 0
    away = -(weights * likely.masked_fill(none, 0)).sum(-1)
    return away.where(labelled, 0.0).sum(), labelled.sum()


def directions(vectors: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Words' vectors ``[..., C]`` as the loss compares with them: centred, of length 1 (0 for one that is the mean)."""
    return torch.nn.functional.normalize(vectors - mean, dim=-1)


def weight_at(step: int, steps: int, weight: float, ramp: float) -> float:
    """What the loss is multiplied by in step ``step`` of ``steps``, from 0: it rises from 0 over the share ``ramp`` of them."""
    rising = ramp * steps
    return weight if step >= rising else weight * step / rising
