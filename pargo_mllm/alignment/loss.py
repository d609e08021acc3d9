"""The patch loss: how far a picture's tokens point away from the words that are true of what they show.

Our choice, for the text of the method could not be read. A token's target is the sum of its labels' vectors, each weighed by
what it says of the token; a label's vector is the mean input embedding of its tokens, centred by the mean embedding of the
whole vocabulary and normalised. The loss of a token is one minus the cosine between the token, centred alike, and its target.
"""

from __future__ import annotations

import torch

# that of this module, and that of :mod:`pargo_mllm.alignment.contrast`
COSINE, CONTRASTIVE = "cosine", "contrastive"
FORMS = (COSINE, CONTRASTIVE)
# no direction: a sum of vectors that cancel each other out
_NOTHING = 1e-6
# as in torch's cosine_similarity
_EPSILON = 1e-8


def patch_loss(
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


def directions(vectors: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Words' vectors ``[..., C]`` as the loss compares with them: centred, of length 1 (0 for one that is the mean)."""
    return torch.nn.functional.normalize(vectors - mean, dim=-1)


def weight_at(step: int, steps: int, weight: float, ramp: float) -> float:
    """What the loss is multiplied by in step ``step`` of ``steps``, from 0: it rises from 0 over the share ``ramp`` of them."""
    rising = ramp * steps
    return weight if step >= rising else weight * step / rising
