"""Partial-global attention (ParGo, Eq. 1): cross-attention in which each partial row sees its own slice of the keys.

    from pargo_kernels.partial_global_attention import partial_global_attention

``import pargo_kernels.partial_global_attention`` binds this module. The op is registered with torch.library, so it works
under torch.compile(fullgraph=True), autocast, checkpointing and fake tensors.
"""

from __future__ import annotations

import torch

from pargo_kernels import reference, registration
from pargo_kernels.checks import check_impl, check_partial_global, check_qkv, passed, remember
from pargo_kernels.dispatch import autocast_inputs, resolve_impl
from pargo_kernels.settings import as_count, as_scale

_ops = registration.define(
    "partial_global_attention",
    inputs="Tensor query, Tensor key, Tensor value, Tensor? cu_seqlens_k",
    settings="SymInt num_partial, float scale",
    num_tensors=4,
    module="partial_global",
)


def partial_global_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    num_partial: int,
    *,
    scale: float | None = None,
    cu_seqlens_k: torch.Tensor | None = None,
    return_lse: bool = False,
    impl: str = "auto",
    check: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Attention in which the first ``num_partial`` query rows see one slice of the keys each and the rest see all.

    Partial row ``i`` sees keys ``[i * n_v // n_p, (i + 1) * n_v // n_p)`` (ParGo, Eq. 1; slices differ by at most one key
    where ``n_p`` does not divide ``n_v``). Exact, differentiable, without a dense mask.

    Args:
        query: ``[B, H, n_p + n_g, D]``, partial rows first. fp16, bf16, fp32 (fp64 on the torch path), any strides.
        key, value: ``[B, H_kv, n_v, D]`` with ``H % H_kv == 0`` and ``D <= 256``; or ``[1, H_kv, total, D]`` when packed.
        num_partial: ``n_p``, the number of partial rows, ``0 ... n_p + n_g``; at most ``n_v``. An int, or what has ``__index__`` (no tensor).
        scale: factor of the scores before the softmax, any real number that is finite in fp32 (0 and negative ones too; no
            tensor); ``D ** -0.5`` by default.
        cu_seqlens_k: int32 ``[B + 1]`` on the query's device: image ``b`` owns keys
            ``[cu_seqlens_k[b], cu_seqlens_k[b + 1])`` of the packed key and value, and has slices of its own.
        return_lse: also return the natural-log sum of exponentials, fp32 ``[B, H, n_q]`` (fp64 for fp64), differentiable.
        impl: "auto" (Triton kernels on a capable GPU; on a CPU kernels in C, which the machine's C compiler makes at the first
            call, or without one, and for fp64, structured torch; that elsewhere too), "triton", "c", "torch", or "reference"
            (dense mask in fp64, for tests).
        check: read the contents of a ``cu_seqlens_k`` that lives on a device (one synchronisation). On the CPU they are
            always checked. Unchecked, a packed image with fewer keys than partial rows gives its empty rows 0 and lse
            minus infinity.

    Returns:
        ``out`` with the shape, dtype and layout of ``query``; with ``return_lse`` the pair ``(out, lse)``.

    Raises:
        TypeError, ValueError: for arguments outside these rules, before anything is computed; a ValueError for an ``impl``
            that cannot run here.
    """
    query, key, value = autocast_inputs(query, key, value)
    if type(num_partial) is not int:
        num_partial = as_count("num_partial", num_partial)
    if scale is not None:
        scale = as_scale(scale)
    # packed offsets are looked at every time
    kind = passed(query, key, value, num_partial, scale, impl) if cu_seqlens_k is None else ()
    if kind is not None:
        check_impl(impl)
        check_qkv(query, key, value)
        check_partial_global(query, key, num_partial, cu_seqlens_k, check)
        remember(kind)
    if scale is None:
        scale = query.shape[-1] ** -0.5
    chosen = resolve_impl(impl, query)
    if chosen == "reference":
        out, lse = reference.partial_global_attention(query, key, value, num_partial, scale, cu_seqlens_k)
    else:
        out, lse = registration.call(_ops, (query, key, value, cu_seqlens_k), (num_partial, scale, chosen))
    return (out, lse) if return_lse else out
