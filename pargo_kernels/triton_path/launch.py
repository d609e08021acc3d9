"""A kernel launch as a value: planned once, run on the tensors' device, or compiled ahead of time without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from triton.compiler import ASTSource

from pargo_kernels.triton_path.tiles import Strided

MAX_INT32 = 2**31 - 1
POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int32: "*i32"}


class Unused(NamedTuple):
    """A pointer that this launch does not follow and another of the same variant does."""

    dtype: torch.dtype


class Launch(NamedTuple):
    """One launch of one kernel: positional arguments, then the compile-time parameters by name.

    The arguments are tensors, :class:`Strided` and :class:`Unused` ones, then at most one float (the scale), then sizes. None
    stands for a tensor that no launch of the variant has. Tensors may be on "meta" where the launch is only compiled.
    """

    kernel: Any
    grid: tuple[int, ...]
    args: tuple
    constants: dict[str, Any]
    num_warps: int
    num_stages: int

    @property
    def variant(self) -> tuple:
        """What the compiler makes code for: launches of equal variants share a kernel.

        Sizes, strides and addresses are not in it, but for what says how wide memory is accessed: a new length compiles
        nothing, and what was compiled ahead of time is what launches find in Triton's cache.
        """
        strides = (stride for arg in self.args if isinstance(arg, Strided) for stride in arg[1:5])
        far = any(stride > MAX_INT32 for stride in strides)
        kinds = tuple(map(_kind, self.args))
        return self.kernel, kinds, far, tuple(self.constants.values()), self.num_warps, self.num_stages

    @property
    def near(self) -> bool:
        """Whether every byte is within 2 GiB of its tensor's first: on HIP the compiler then needs no 64-bit addresses."""
        bases = (arg.base if isinstance(arg, Strided) else arg for arg in self.args)
        tensors = [base for base in bases if isinstance(base, torch.Tensor)]
        spans = (sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) * t.element_size() for t in tensors)
        return all(span < MAX_INT32 - 8 for span in spans)

    def source(self, backend: str = "cuda") -> ASTSource:
        """The variant as Triton's compiler takes it, for a backend of Triton."""
        _, kinds, far, _, _, _ = self.variant
        stride = "i64" if far else "i32"
        names = [parameter.name for parameter in self.kernel.params]
        signature: dict[str, Any] = dict.fromkeys(names, "constexpr")
        constants: dict[tuple[int, ...], Any] = {}
        attributes: dict[tuple[int, ...], Any] = {}
        for position, (name, kind) in enumerate(zip(names, kinds, strict=False)):
            if isinstance(kind, Strided):
                dim = stride if kind.apart else "constexpr"
                signature[name] = Strided(POINTERS[kind.base], stride, stride, stride, dim, "constexpr", "constexpr")
                constants |= {(position, 5): kind.unit, (position, 6): kind.apart}
                if not kind.apart:
                    constants[position, 4] = kind.dim
                if kind.unit > 1:
                    attributes[position, 0] = divisible_by(kind.unit * kind.base.itemsize)
            elif isinstance(kind, torch.dtype):
                signature[name] = POINTERS[kind]
                # buffers of our own come straight from the allocator; cu_seqlens may begin anywhere
                if kind.is_floating_point:
                    attributes[position,] = divisible_by(16)
            elif kind is None:
                constants[position,] = None
            else:
                signature[name] = "fp32" if kind is float else "i32"
        for position in range(len(kinds), len(names)):
            constants[position,] = self.constants[names[position]]
        if backend == "hip" and self.near:
            for position, kind in enumerate(kinds):
                if isinstance(kind, Strided | torch.dtype):
                    place = (position, 0) if isinstance(kind, Strided) else (position,)
                    attributes[place] = [*attributes.get(place, []), ["tt.pointer_range", 32]]
        return ASTSource(self.kernel, signature, constants, attributes)

    @property
    def options(self) -> dict[str, int]:
        """Options of the compiler."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}


def _kind(arg):
    if isinstance(arg, Strided):
        return Strided(arg.base.dtype, None, None, None, None if arg.apart else arg.dim, arg.unit, arg.apart)
    if isinstance(arg, torch.Tensor | Unused):
        return arg.dtype
    return None if arg is None else type(arg)


class Parameters(NamedTuple):
    """What a launch needs beside its tensors; the same for equal sizes, so it is planned once."""

    kernel: Any
    grid: tuple[int, ...]
    sizes: tuple[int, ...]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int

    def launch(self, *tensors) -> Launch:
        """The launch on these tensors (and the scale)."""
        return Launch(self.kernel, self.grid, (*tensors, *self.sizes), self.constants, self.num_warps, self.num_stages)


def divisible_by(count: int) -> list[list]:
    """The compiler's attribute of an address that is a multiple of ``count`` bytes."""
    return [["tt.divisibility", count]]


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << (n - 1).bit_length()


def block_dim(head_dim: int) -> int:
    """Columns of a tile: ``head_dim`` rounded up to a power of two of at least 16 (the smallest a dot takes)."""
    return max(16, next_power_of_2(head_dim))


def table_dim(head_dim: int, rows: Sequence[Strided]) -> int:
    """The head dimension whose lines of the launch table serve these rows.

    Rows that cannot be moved four elements at a time need more registers for their addresses: they take the more frugal
    lines of the next larger head dimension.
    """
    narrow = any(row.unit < 4 for row in rows)
    return min(256, 2 * block_dim(head_dim)) if narrow else block_dim(head_dim)


def dot_precision(dtype: torch.dtype) -> str:
    """fp32 means fp32: exact products, never TF32. 16-bit inputs are exact in any mode."""
    return "ieee" if dtype == torch.float32 else "tf32"
