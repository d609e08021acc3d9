"""The calls of the gate's own checks: few, and between them they launch every kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from bench.problems.attention import Cascaded, PartialGlobal
from bench.problems.suites import SUITES
from pargo_kernels.cascaded_partial_attention import cascaded_partial_attention
from pargo_kernels.partial_global_attention import partial_global_attention
from pargo_kernels.triton_path import cascaded, partial_global
from pargo_kernels.triton_path.launch import Launch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
RESULTS = ("out", "lse", "grad of query", "grad of key", "grad of value")
KERNELS = {
    "partial_global_forward", "partial_global_backward", "merge_chunk_outputs", "merge_chunk_gradients",
    "cascaded_forward", "cascaded_query_backward", "cascaded_key_backward",
}  # fmt: skip
# the suites whose launches are compiled before they are timed
TIMED = ("gate-pgp", "gate-cpp")

# query, key, value, the gradient of out, the gradient of lse
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Call:
    """A forward and a backward of one attention, the lse and its gradient included."""

    name: str
    batch: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_partial: int
    num_global: int
    num_keys: int
    # of the cascade
    window: int | None = None
    # keys of each image where they are packed
    lengths: tuple[int, ...] | None = None

    def tensors(self, dtype: torch.dtype, device: torch.device | str) -> Tensors:
        """Standard normal tensors, the same for every device."""
        generator = torch.Generator().manual_seed(0)
        rows = self.num_partial + self.num_global
        query = (self.batch, self.num_heads, rows, self.head_dim)
        key = (1 if self.lengths else self.batch, self.num_kv_heads, self.num_keys, self.head_dim)
        draw = [torch.randn(shape, generator=generator).to(device, dtype) for shape in (query, key, key, query)]
        return draw[0], draw[1], draw[2], draw[3], torch.randn(query[:3], generator=generator).to(device)

    def results(self, tensors: Tensors, impl: str) -> tuple[torch.Tensor, ...]:
        """The five results, in the order of ``RESULTS``."""
        *leaves, grad_out, grad_lse = tensors
        query, key, value = (leaf.detach().requires_grad_() for leaf in leaves)
        if self.window is None:
            ends = self.offsets(query.device) if self.lengths else None
            out, lse = partial_global_attention(
                query, key, value, self.num_partial, impl=impl, return_lse=True, cu_seqlens_k=ends
            )
        else:
            out, lse = cascaded_partial_attention(
                query, key, value, self.window, num_partial=self.num_partial, impl=impl, return_lse=True
            )
        grads = torch.autograd.grad((out, lse), (query, key, value), (grad_out, grad_lse.to(lse.dtype)))
        return out.detach(), lse.detach(), *grads

    def alone(self, tensors: Tensors, image: int) -> tuple[Call, Tensors, slice, slice]:
        """One image by itself: its call and tensors, its place in the batch, and its keys among the packed ones."""
        row, keys = slice(image, image + 1), slice(None)
        key_row, call = row, replace(self, batch=1)
        if self.lengths:
            ends = [0, *accumulate(self.lengths)]
            keys, key_row = slice(ends[image], ends[image + 1]), slice(None)
            call = replace(call, lengths=None, num_keys=self.lengths[image])
        query, key, value, grad_out, grad_lse = tensors
        mine = query[row], key[key_row, :, keys], value[key_row, :, keys], grad_out[row], grad_lse[row]
        return call, mine, row, keys

    def offsets(self, device: torch.device) -> torch.Tensor:
        """``cu_seqlens_k`` of packed keys."""
        return torch.tensor([0, *accumulate(self.lengths or ())], dtype=torch.int32, device=device)

    def launches(self, dtype: torch.dtype, arch: str, grad_lse: bool = True) -> Iterator[Launch]:
        """The launches of both directions, on tensors without storage."""

        def empty(heads: int, tokens: int, batch: int = self.batch) -> torch.Tensor:
            return torch.empty(batch, heads, tokens, self.head_dim, dtype=dtype, device="meta")

        rows = self.num_partial + self.num_global
        query, out = empty(self.num_heads, rows), empty(self.num_heads, rows)
        key = empty(self.num_kv_heads, self.num_keys, 1 if self.lengths else self.batch)
        lse = torch.empty(query.shape[:3], device="meta")
        grads = (torch.empty_like(query), torch.empty_like(key), torch.empty_like(key))
        received = (torch.empty_like(query), torch.empty_like(lse) if grad_lse else None)
        scale = self.head_dim**-0.5
        if self.window is None:
            ends = self.offsets(torch.device("meta")) if self.lengths else None
            tensors = (query, key, torch.empty_like(key), ends, out, lse)
            yield from partial_global.forward_launches(*tensors, self.num_partial, scale, arch)
            yield from partial_global.backward_launches(*received, *tensors, *grads, self.num_partial, scale, arch)
        else:
            band = (self.window, self.num_partial, "clamp", scale, arch)
            dense = (query, key, torch.empty_like(key), out, lse)
            yield from cascaded.forward_launches(*dense, *band)
            yield from cascaded.backward_launches(*received, *dense, *grads, *band)


CALLS = (
    Call("one chunk", 4, 4, 2, 64, 288, 16, 576),
    Call("several chunks", 3, 4, 2, 64, 1100, 5, 2200),
    Call("long slices", 3, 4, 2, 64, 20, 5, 1900),
    Call("packed", 3, 4, 2, 64, 20, 5, 1821, lengths=(1100, 21, 700)),
    Call("cascade", 3, 4, 2, 64, 150, 20, 170, window=30),
)
# what two cores can interpret
SMALL_CALLS = (
    Call("several chunks", 1, 1, 1, 16, 4, 2, 1100),
    Call("packed", 2, 1, 1, 16, 6, 3, 90, lengths=(60, 30)),
    Call("cascade", 2, 1, 1, 16, 20, 5, 25, window=7),
)


def launches(arch: str) -> Iterator[Launch]:
    """What the timed suites launch, then what the checks launch."""
    for problem in (problem for name in TIMED for case in SUITES[name].cases for problem in case.problems):
        if isinstance(problem, PartialGlobal | Cascaded):
            sizes = (problem.batch, problem.num_heads, problem.num_heads, problem.head_dim, problem.num_partial)
            call = Call(str(problem), *sizes, problem.num_global, problem.num_keys, problem.window)
            yield from call.launches(torch.bfloat16, arch, grad_lse=False)
    for dtype in DTYPES.values():
        for call in CALLS:
            yield from call.launches(dtype, arch)


def kernels_of(calls: Iterable[Call]) -> set[str]:
    """Names of the kernels that the calls launch."""
    return {launch.kernel.__name__ for call in calls for launch in call.launches(torch.float32, "sm_90")}


def worst_error(found: tuple[torch.Tensor, ...], exact: tuple[torch.Tensor, ...]) -> float:
    """The largest relative error of a result, in the norm of the whole tensor; NaN where a result is not finite."""
    errors = []
    for ours, right in zip(found, exact, strict=True):
        if not bool(ours.isfinite().all()):
            return float("nan")
        errors.append(float((ours.double() - right.double()).norm() / right.double().norm()))
    return max(errors)
