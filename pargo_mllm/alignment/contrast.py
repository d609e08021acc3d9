"""The contrastive patch loss: a token is to be nearer to the words that are true of what it shows than to other words.

Our choice, beside the cosine of :mod:`pargo_mllm.alignment.loss`: cosines of centred tokens and words over a temperature are
logits, and the loss is the cross-entropy to what each label says of the token. On real features and a real vocabulary more
patches of unseen photographs are named right after it than after the cosine (docs/alignment.md).
"""

from __future__ import annotations

import torch
from torch.nn import functional

#: of several that were tried on real parts, within photographs that training may see
TEMPERATURE = 0.07


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
        words: ``[images, words, C]``, those that a token is to choose from (:func:`~pargo_mllm.alignment.loss.directions`).
        mean: ``[C]``, of the language model's input embeddings.
        temperature: what cosines are divided by.
    """
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    weights, words = weights.to(dtype), words.to(dtype)
    directions = functional.normalize(tokens.to(dtype) - mean.to(dtype), dim=-1)
    logits = directions @ words.mT / temperature
    none = (words == 0).all(-1)[:, None]
    likely = logits.masked_fill(none, torch.finfo(dtype).min).log_softmax(-1)
    labelled = weights.sum(-1) > 0
    away = -(weights * likely.masked_fill(none, 0)).sum(-1)
    return away.where(labelled, 0.0).sum(), labelled.sum()
