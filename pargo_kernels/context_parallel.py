"""Partial-global attention with the visual tokens of one image sharded over ranks.

Each rank holds a run of visual tokens and the partial rows that own them; the global rows are on every rank. Only the global
rows' (out, lse) cross the network in the forward and only their query gradients in the backward: 16 rows a head instead of
304 at the paper's setting.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from pargo_kernels import partial_global_attention as single
from pargo_kernels.checks import check_partial_global, check_qkv
from pargo_kernels.dispatch import autocast_inputs, resolve_impl
from pargo_kernels.intervals import partial_bounds, partial_start
from pargo_kernels.merge import merge_attention_states
from pargo_kernels.registration import Once, differentiated, reverse_mode_only
from pargo_kernels.settings import as_count, as_scale

NAME = "partial_global_attention over several ranks"


def partial_global_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    num_partial: int,
    group: dist.ProcessGroup,
    *,
    scale: float | None = None,
    return_lse: bool = False,
    impl: str = "auto",
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """This rank's part of :func:`pargo_kernels.partial_global_attention.partial_global_attention` over all ranks' keys.

    The ranks' shards, in rank order, are the image's visual tokens and partial rows; a shard ends where a slice ends. The
    global rows and what is computed from their output are taken to be the same on every rank: so is the gradient that comes
    back for them, and their query gradient is summed over the ranks.

    Args:
        query: ``[B, H, n_p + n_g, D]``: this rank's partial rows, then the global rows, equal on all ranks.
        key, value: ``[B, H_kv, n_v, D]``: this rank's visual tokens.
        num_partial: ``n_p``, this rank's number of partial rows.
        group: the process group that shares the image; all its ranks call this together.
        scale, return_lse, impl: as for one device ("reference" is not offered).

    Returns:
        ``out`` like ``query`` (with ``return_lse`` also ``lse``): this rank's partial rows and the global rows of all.

    Raises:
        TypeError, ValueError: for bad arguments, on the rank that has them, while the others wait for it; and on every rank if
            the shards do not end where slices end.
    """
    query, key, value = autocast_inputs(query, key, value)
    num_partial, scale = as_count("num_partial", num_partial), as_scale(scale)
    check_qkv(query, key, value)
    check_partial_global(query, key, num_partial, None, False)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    chosen = resolve_impl(impl, query)
    if chosen == "reference":
        raise ValueError("impl='reference' is not offered over several ranks: use 'auto', 'triton', 'c' or 'torch'.")
    _check_shards(query, key, num_partial, group)
    out, lse = _ShardedAttention.apply(query, key, value, num_partial, scale, chosen, group)
    return (out, lse) if return_lse else out


def _check_shards(query, key, num_partial: int, group: dist.ProcessGroup) -> None:
    num_global, num_keys = query.shape[2] - num_partial, key.shape[2]
    shards: list = [None] * dist.get_world_size(group)
    dist.all_gather_object(shards, (num_partial, num_keys, num_global), group=group)
    if len({shard[2] for shard in shards}) > 1:
        raise ValueError(
            f"query has {[shard[2] for shard in shards]} global rows on the ranks; the global rows must be the same on all."
        )
    total_partial, total_keys = (sum(shard[i] for shard in shards) for i in (0, 1))
    row = begin = 0
    for rank, (rows, keys, _) in enumerate(shards):
        expected = partial_bounds(total_partial, total_keys)[row : row + rows] - begin
        if not torch.equal(expected, partial_bounds(rows, keys)):
            ends = partial_start(row + rows, total_partial, total_keys) if total_partial else total_keys
            raise ValueError(
                f"key on rank {rank} holds tokens {begin}...{begin + keys} for partial rows {row}...{row + rows}; a shard must "
                f"end where a slice ends, here at {ends}, and cut its own slices as the whole image does: give each rank a "
                f"multiple of the slice length, {total_keys} / {max(1, total_partial)} tokens a row."
            )
        row, begin = row + rows, begin + keys


class _ShardedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, num_partial, scale, impl, group):
        out, lse = single._ops.forward(query, key, value, None, num_partial, scale, impl)
        own = out[:, :, num_partial:].contiguous(), lse[:, :, num_partial:].contiguous()
        outs, lses = ([torch.empty_like(t) for _ in range(dist.get_world_size(group))] for t in own)
        dist.all_gather(outs, own[0], group=group)
        dist.all_gather(lses, own[1], group=group)
        # in rank order on every rank: bitwise the same everywhere
        merged = outs[0].to(lse.dtype), lses[0]
        for part in zip(outs[1:], lses[1:], strict=True):
            merged = merge_attention_states(*merged, part[0].to(lse.dtype), part[1])
        out[:, :, num_partial:], lse[:, :, num_partial:] = merged
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.settings = num_partial, scale, impl, group
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx, grad_out, grad_lse):
        saved = ctx.saved_tensors
        if grad_out is None:
            grad_out = torch.zeros_like(saved[3])
        args = (ctx.settings, grad_out, grad_lse, *saved)
        grads = Once.apply(NAME, _sharded_gradients, *args) if differentiated() else _sharded_gradients(*args)
        return (*grads, None, None, None, None)

    @staticmethod
    def jvp(ctx, *_):
        raise RuntimeError(reverse_mode_only(NAME))


def _sharded_gradients(settings, grad_out, grad_lse, query, key, value, out, lse):
    num_partial, scale, impl, group = settings
    # with the merged out and lse, each rank's share of the global rows' gradients follows from its own keys alone
    grads = single._ops.backward(grad_out, grad_lse, query, key, value, None, out, lse, num_partial, scale, impl)
    shared = grads[0][:, :, num_partial:].contiguous().to(lse.dtype)
    dist.all_reduce(shared, group=group)
    grads[0][:, :, num_partial:] = shared
    return grads
