"""The attention of the projectors: who sees whom, and the three ways to compute it.

A layout says which keys each token sees. "pargo" runs the layout on the block-sparse ops; "sdpa" and "eager" are dense
baselines on a boolean mask of the same intervals.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import nn

from pargo_kernels.ops import cascaded_partial_attention, partial_global_attention
from pargo_kernels.reference import cascaded_mask, partial_global_mask


class Layout(Protocol):
    """Which keys each token of a sequence sees."""

    def attend(self, query, key, value, impl: str, cu_seqlens: torch.Tensor | None = None) -> torch.Tensor:
        """The op: ``[B, H, n_q, D]`` from query ``[B, H, n_q, D]``, key and value ``[B, H, n_k, D]``.

        With ``cu_seqlens``, int32 ``[B + 1]``, key and value are ``[1, H, total, D]``, packed.
        """

    def mask(self, num_query: int, num_keys: int, device) -> torch.Tensor | None:
        """The dense boolean mask ``[n_q, n_k]``; None where every token sees every key."""


@dataclass(frozen=True)
class PartialGlobal:
    """Cross-attention of Eq. 1: the first ``num_partial`` tokens see a slice of the features each, the others all."""

    num_partial: int

    def attend(self, query, key, value, impl: str, cu_seqlens: torch.Tensor | None = None) -> torch.Tensor:
        """See :class:`Layout`."""
        return partial_global_attention(  # type: ignore[return-value]
            query, key, value, self.num_partial, cu_seqlens_k=cu_seqlens, impl=impl
        )

    def mask(self, num_query: int, num_keys: int, device) -> torch.Tensor | None:
        """See :class:`Layout`."""
        return partial_global_mask(self.num_partial, num_query, num_keys, device) if self.num_partial else None


@dataclass(frozen=True)
class Cascaded:
    """Self-attention of Eq. 2: the first ``num_partial`` tokens see a window each, the others see each other.

    Every picture has the same tokens: they are never packed.
    """

    num_partial: int
    window: int
    edge: str

    def attend(self, query, key, value, impl: str, cu_seqlens: torch.Tensor | None = None) -> torch.Tensor:
        """See :class:`Layout`."""
        return cascaded_partial_attention(  # type: ignore[return-value]
            query, key, value, self.window, num_partial=self.num_partial, edge=self.edge, impl=impl
        )

    def mask(self, num_query: int, num_keys: int, device) -> torch.Tensor | None:
        """See :class:`Layout`."""
        if self.num_partial == 0:
            return None
        return cascaded_mask(self.num_partial, num_query, self.window, self.edge, device)


def attention_weights(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Softmax weights of scaled dot-product attention over a boolean mask, ``[B, H, n_q, n_k]``, fp32 (fp64 for fp64).

    Rows sum to 1 and are 0 where the mask is False. ``query`` ``[B, H, n_q, D]``, ``key`` ``[B, H, n_k, D]``.
    """
    scores = query @ key.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1)


class KeptAttention:
    """What tokens that see the whole picture attend to, the mean over heads and over all passes that were added.

    Args:
        read: how many tokens, the last ones of each picture.
    """

    def __init__(self, read: int):
        self.read = read
        self._sums: list[torch.Tensor] = []
        self._passes = 0

    @torch.no_grad()
    def add(self, query: torch.Tensor, key: torch.Tensor, cu_seqlens: torch.Tensor | None) -> None:
        """Attention of query ``[B, H, n_q, D]`` to key ``[B, H, n_k, D]``, or ``[1, H, total, D]`` packed; never recorded for a
        backward pass."""
        asking = query[:, :, query.shape[2] - self.read :]
        if cu_seqlens is None:
            found = list(attention_weights(asking, key, None).mean(1))
        else:
            spans = pairwise(cu_seqlens.tolist())
            found = [attention_weights(asking[i], key[0, :, a:b], None).mean(0) for i, (a, b) in enumerate(spans)]
        self._sums = [one + other for one, other in zip(self._sums, found, strict=True)] if self._passes else found
        self._passes += 1

    def means(self) -> list[torch.Tensor]:
        """Of each picture ``[read, keys]``; rows sum to 1."""
        return [total / self._passes for total in self._sums]


@contextmanager
def attention_kept(projector: nn.Module, read: int) -> Iterator[KeptAttention]:
    """Inside the block, keep what the last ``read`` tokens attend to in all layers of a projector's next forward pass.

    They must see the whole picture. What is computed again for a backward pass, behind the block, is not kept.
    """
    kept = KeptAttention(read)
    layers = [module for module in projector.modules() if isinstance(module, ProjectorAttention) and module.reads_the_picture]
    for layer in layers:
        layer.kept = kept
    try:
        yield kept
    finally:
        for layer in layers:
            layer.kept = None


class ProjectorAttention(nn.Module):
    """Multi-head attention of projector tokens over a source, seen through a layout."""

    def __init__(self, config, layout: Layout, source_size: int):
        super().__init__()
        self.config = config
        self.layout = layout
        self.num_heads = config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(source_size, config.hidden_size)
        self.v_proj = nn.Linear(source_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)
        #: while somebody asks (:func:`attention_kept`): gets, of each forward pass, what its last tokens attend to
        self.kept: KeptAttention | None = None

    def forward(
        self,
        tokens: torch.Tensor,
        source: torch.Tensor,
        weights: list | None = None,
        cu_seqlens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend from ``tokens`` ``[B or 1, n_q, C]`` to ``source`` ``[B, n_k, source_size]``.

        Args:
            weights: a list that gets this attention's weights ``[B, H, n_q, n_k]``, for pictures; the op keeps none.
            cu_seqlens: int32 ``[B + 1]``; ``source`` is then ``[1, total, source_size]``, packed.

        Returns:
            ``[B, n_q, C]``.
        """
        # learned queries come once for the whole batch: no copy, the op takes stride 0
        batch = source.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
        query = self._heads(self.q_proj(tokens)).expand(batch, -1, -1, -1)
        key, value = self._heads(self.k_proj(source)), self._heads(self.v_proj(source))
        if weights is not None:
            weights.append(attention_weights(query, key, self._mask(query, key)).detach())
        if self.kept is not None:
            self.kept.add(query, key, cu_seqlens)
        return self.o_proj(self._attend(query, key, value, cu_seqlens).transpose(1, 2).flatten(2))

    def _attend(self, query, key, value, cu_seqlens: torch.Tensor | None = None) -> torch.Tensor:
        how = self.config._attn_implementation
        if how == "pargo":
            return self.layout.attend(query, key, value, impl=self.config.kernel_impl, cu_seqlens=cu_seqlens)
        if cu_seqlens is not None:
            # the dense baselines have no packed form
            spans = pairwise(cu_seqlens.tolist())
            images = (self._attend(query[i : i + 1], key[:, :, a:b], value[:, :, a:b]) for i, (a, b) in enumerate(spans))
            return torch.cat(list(images))
        if how == "sdpa":
            mask = self._mask(query, key)
            return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attention_weights(query, key, self._mask(query, key)).to(value.dtype) @ value

    @property
    def reads_the_picture(self) -> bool:
        """Whether its keys are a picture's features (and not tokens alone)."""
        return isinstance(self.layout, PartialGlobal)

    def _mask(self, query, key) -> torch.Tensor | None:
        return self.layout.mask(query.shape[2], key.shape[2], query.device)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
