"""Merging two attentions of the same queries over disjoint sets of keys."""

from __future__ import annotations

import torch

from pargo_kernels.checks import FLOATS, check_strided


def merge_attention_states(
    out_a: torch.Tensor, lse_a: torch.Tensor, out_b: torch.Tensor, lse_b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over the union of two disjoint sets of keys, from the attention over each.

    ``out = (exp(lse_a) out_a + exp(lse_b) out_b) / (exp(lse_a) + exp(lse_b))``, computed without overflow. Differentiable
    in all four arguments. A row that saw nothing (lse minus infinity) weighs 0 and passes no gradient; where both saw
    nothing, out is 0 and lse minus infinity.

    Args:
        out_a, out_b: ``[B, H, n_q, D]``, of one shape, dtype and device; fp16, bf16, fp32 or fp64.
        lse_a, lse_b: natural-log sums of exponentials ``[B, H, n_q]``, as the ops return them with ``return_lse=True``: fp32,
            or fp64, which outputs in fp64 need.

    Returns:
        ``(out, lse)``: out in the dtype of ``out_a``, accumulated in the dtype of lse; lse as ``lse_a``.

    Raises:
        TypeError, ValueError: if shapes, dtypes or devices do not fit together.
    """
    _check(out_a, lse_a, out_b, lse_b)
    peak = torch.maximum(lse_a, lse_b).detach()
    peak = peak.masked_fill(torch.isneginf(peak), 0.0)
    weight_a, weight_b = _weight(lse_a, peak), _weight(lse_b, peak)
    total = weight_a + weight_b
    blind = total == 0
    total = total.masked_fill(blind, 1.0)
    share_a, share_b = ((weight / total).unsqueeze(-1) for weight in (weight_a, weight_b))
    out = share_a * _seen(out_a, lse_a) + share_b * _seen(out_b, lse_b)
    lse = (peak + total.log()).masked_fill(blind, float("-inf"))
    return out.to(out_a.dtype), lse


def _weight(lse: torch.Tensor, peak: torch.Tensor) -> torch.Tensor:
    # exp(lse - peak); the inner where keeps the gradient of a row that saw nothing at 0 instead of NaN
    seen = ~torch.isneginf(lse)
    return torch.where(seen, torch.exp(torch.where(seen, lse, peak) - peak), 0.0)


def _seen(out: torch.Tensor, lse: torch.Tensor) -> torch.Tensor:
    # a row that saw nothing may hold anything: 0 * NaN must not reach the sum
    return out.to(lse.dtype).masked_fill(torch.isneginf(lse).unsqueeze(-1), 0.0)


def _check(out_a, lse_a, out_b, lse_b) -> None:
    for name, tensor in (("out_a", out_a), ("lse_a", lse_a), ("out_b", out_b), ("lse_b", lse_b)):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}; it must be a torch.Tensor.")
        check_strided(name, tensor)
    for name, a, b in (("out", out_a, out_b), ("lse", lse_a, lse_b)):
        if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
            raise ValueError(
                f"{name}_a is {list(a.shape)} {a.dtype} on {a.device} and {name}_b {list(b.shape)} {b.dtype} on {b.device}; "
                "they must agree: attend with the same queries, over different keys."
            )
    if out_a.dtype not in FLOATS:
        raise TypeError(f"out_a is {out_a.dtype}; use float16, bfloat16, float32 or float64: cast out_a and out_b.")
    if lse_a.dtype not in ((torch.float64,) if out_a.dtype == torch.float64 else (torch.float32, torch.float64)):
        raise TypeError(
            f"lse_a is {lse_a.dtype} beside outputs in {out_a.dtype}; it must be float32, or float64 beside outputs in float64, "
            "as the ops return it: fewer digits would weigh the parts wrongly. Cast lse_a and lse_b."
        )
    if out_a.dim() != 4:
        raise ValueError(f"out_a has shape {list(out_a.shape)}; it must have 4 dimensions [batch, heads, tokens, head_dim].")
    if out_a.shape[:-1] != lse_a.shape:
        raise ValueError(
            f"out_a has shape {list(out_a.shape)} and lse_a {list(lse_a.shape)}; lse must be out without its last "
            "dimension, as the ops return it with return_lse=True."
        )
