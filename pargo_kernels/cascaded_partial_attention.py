"""Cascaded partial attention (ParGo, Eq. 2): self-attention in which each token sees a window of its neighbours.

    from pargo_kernels.cascaded_partial_attention import cascaded_partial_attention

``import pargo_kernels.cascaded_partial_attention`` binds this module. The op is registered with torch.library, so it works
under torch.compile(fullgraph=True), autocast, checkpointing and fake tensors.
"""

from __future__ import annotations

import torch

from pargo_kernels import reference, registration
from pargo_kernels.checks import check_cascaded, check_impl, check_qkv, passed, remember
from pargo_kernels.dispatch import autocast_inputs, resolve_impl
from pargo_kernels.settings import as_count, as_scale

_ops = registration.define(
    "cascaded_partial_attention",
    inputs="Tensor query, Tensor key, Tensor value",
    settings="SymInt window, SymInt num_partial, str edge, float scale",
    num_tensors=3,
    module="cascaded",
)


def cascaded_partial_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int,
    *,
    num_partial: int | None = None,
    edge: str = "clamp",
    scale: float | None = None,
    return_lse: bool = False,
    impl: str = "auto",
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Self-attention in a band: each of the first ``num_partial`` tokens sees ``window`` adjacent ones (ParGo, Eq. 2).

    With ``edge="clamp"`` the window of token ``i`` starts at ``clamp(i - window // 2, 0, n_p - window)``: every token
    sees exactly ``window`` tokens. With ``edge="truncate"`` the window is cut at the borders. Tokens after ``num_partial``
    attend among themselves. Exact, differentiable, without a dense mask.

    Args:
        query: ``[B, H, n, D]``, partial rows first. fp16, bf16, fp32 (fp64 on the torch path), any strides.
        key, value: ``[B, H_kv, n, D]`` with ``H % H_kv == 0`` and ``D <= 256``.
        window: ``1 ... num_partial``; :func:`pargo_kernels.intervals.cascade_windows` gives the paper's, layer by layer.
        num_partial: how many leading tokens form the band; None means all ``n``.
        edge: "clamp" or "truncate".
        scale: factor of the scores before the softmax, any real number that is finite in fp32 (0 and negative ones too; no
            tensor); ``D ** -0.5`` by default.
        return_lse: also return the natural-log sum of exponentials, fp32 ``[B, H, n]`` (fp64 for fp64), differentiable.
        impl: "auto" (Triton kernels on a capable GPU; on a CPU kernels in C, which the machine's C compiler makes at the first
            call, or without one, and for fp64, structured torch; that elsewhere too), "triton", "c", "torch", or "reference"
            (dense mask in fp64, for tests).

    Returns:
        ``out`` with the shape, dtype and layout of ``query``; with ``return_lse`` the pair ``(out, lse)``.

    Raises:
        TypeError, ValueError: for arguments outside these rules, before anything is computed; a ValueError for an ``impl``
            that cannot run here.
    """
    query, key, value = autocast_inputs(query, key, value)
    if type(window) is not int:
        window = as_count("window", window)
    if num_partial is not None and type(num_partial) is not int:
        num_partial = as_count("num_partial", num_partial)
    if scale is not None:
        scale = as_scale(scale)
    kind = passed(query, key, value, window, num_partial, edge, scale, impl)
    if kind is not None:
        check_impl(impl)
        check_qkv(query, key, value)
        check_cascaded(query, key, window, query.shape[2] if num_partial is None else num_partial, edge)
        remember(kind)
    if num_partial is None:
        num_partial = query.shape[2]
    if scale is None:
        scale = query.shape[-1] ** -0.5
    chosen = resolve_impl(impl, query)
    if chosen == "reference":
        out, lse = reference.cascaded_partial_attention(query, key, value, window, num_partial, edge, scale)
    else:
        out, lse = registration.call(_ops, (query, key, value), (window, num_partial, edge, scale, chosen))
    return (out, lse) if return_lse else out
