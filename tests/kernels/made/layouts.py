"""Problems for the kernel tests: shapes, strides and what surrounds the tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import strategies as st

from pargo_kernels.cascaded_partial_attention import cascaded_partial_attention
from pargo_kernels.partial_global_attention import partial_global_attention

# how a tensor [B, H, N, D] lies in memory; all are surrounded by NaN, so that a read outside is seen
STRIDES = ("contiguous", "tokens first", "padded rows", "offset one", "strided columns", "expanded batch")


def place(values: torch.Tensor, strides: str) -> torch.Tensor:
    """A copy of ``values`` in the given layout, with NaN around and between its rows."""
    batch, heads, tokens, dim = values.shape

    def surrounded(*shape):
        return torch.full(shape, float("nan"), dtype=values.dtype, device=values.device)

    if strides == "contiguous":
        view = surrounded(batch + 2, heads, tokens, dim)[1:-1]
    elif strides == "tokens first":
        view = surrounded(batch + 2, tokens, heads, dim)[1:-1].transpose(1, 2)
    elif strides == "padded rows":
        view = surrounded(batch + 2, heads, tokens, dim + 65)[1:-1, :, :, :dim]
    elif strides == "offset one":
        flat = surrounded(values.numel() + 2)
        view = flat[1:-1].view(batch, heads, tokens, dim)
    elif strides == "strided columns":
        view = surrounded(batch + 2, heads, dim, tokens)[1:-1].transpose(2, 3)
    else:
        # one row of the batch serves all, as learned queries do
        view = surrounded(3, heads, tokens, dim)[1:2].expand(batch, heads, tokens, dim)
        view[:1].copy_(values[:1])
        return view
    view.copy_(values)
    return view


class Problem(NamedTuple):
    """One call of one attention; ``arguments`` after query, key, value."""

    op: str
    batch: int
    heads: int
    kv_heads: int
    num_query: int
    num_keys: int
    dim: int
    arguments: dict
    strides: tuple[str, str, str, str] = ("contiguous",) * 4
    dtype: torch.dtype = torch.float32
    seed: int = 0

    def tensors(self, device="cpu"):
        """(query, key, value, grad_out, grad_lse) on the device, in their layouts."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(*shape):
            return torch.randn(shape, generator=generator).to(device, self.dtype)

        packed = self.arguments.get("cu_seqlens_k") is not None
        query = draw(self.batch, self.heads, self.num_query, self.dim)
        key, value = (draw(1 if packed else self.batch, self.kv_heads, self.num_keys, self.dim) for _ in range(2))
        grad_out = draw(self.batch, self.heads, self.num_query, self.dim)
        placed = [place(t, s) for t, s in zip((query, key, value, grad_out), self.strides, strict=True)]
        grad_lse = torch.randn(query.shape[:3], generator=generator).to(device)
        return (*placed, grad_lse.double() if self.dtype == torch.float64 else grad_lse)

    def __call__(self, query, key, value, **options):
        arguments = {k: v.to(query.device) if isinstance(v, torch.Tensor) else v for k, v in self.arguments.items()}
        op = partial_global_attention if self.op == "partial_global" else cascaded_partial_attention
        return op(query, key, value, **arguments, **options)


def dims():
    return st.sampled_from((4, 8, 16, 20, 32, 40, 64))


def layouts():
    return st.tuples(*[st.sampled_from(STRIDES)] * 4)


@st.composite
def heads(draw):
    kv_heads = draw(st.integers(1, 2))
    return kv_heads * draw(st.sampled_from((1, 1, 2, 3))), kv_heads


@st.composite
def partial_global_problems(draw, max_keys=300, dtypes=(torch.float32,)):
    """Layouts of partial-global attention: slices equal and unequal, short and long, with and without either kind of row."""
    num_heads, kv_heads = draw(heads())
    num_partial = draw(st.integers(0, 60))
    num_global = draw(st.sampled_from((0, 1, 3, 16, 20))) if num_partial else draw(st.integers(1, 20))
    batch = draw(st.integers(1, 2))
    arguments = {"num_partial": num_partial, "scale": draw(st.sampled_from((None, 0.3)))}
    if draw(st.booleans()):
        num_keys = draw(st.integers(max(1, num_partial), max_keys))
    else:
        lengths = [draw(st.integers(max(1, num_partial), max_keys)) for _ in range(batch)]
        arguments["cu_seqlens_k"] = torch.tensor([0, *lengths]).cumsum(0).int()
        num_keys = sum(lengths)
    return Problem(
        "partial_global",
        batch,
        num_heads,
        kv_heads,
        num_partial + num_global,
        num_keys,
        draw(dims()),
        arguments,
        draw(layouts()),
        draw(st.sampled_from(dtypes)),
        draw(st.integers(0, 2**31)),
    )


@st.composite
def cascaded_problems(draw, max_tokens=150, dtypes=(torch.float32,)):
    """Layouts of cascaded attention: every window and edge, with and without global rows."""
    num_heads, kv_heads = draw(heads())
    num_partial = draw(st.integers(0, max_tokens))
    num_global = draw(st.sampled_from((0, 0, 1, 16, 20))) if num_partial else draw(st.integers(1, 40))
    tokens = num_partial + num_global
    arguments = {
        "window": draw(st.integers(1, max(1, num_partial))),
        "num_partial": num_partial,
        "edge": draw(st.sampled_from(("clamp", "truncate"))),
        "scale": draw(st.sampled_from((None, 0.3))),
    }
    return Problem(
        "cascaded",
        draw(st.integers(1, 2)),
        num_heads,
        kv_heads,
        tokens,
        tokens,
        draw(dims()),
        arguments,
        draw(layouts()),
        draw(st.sampled_from(dtypes)),
        draw(st.integers(0, 2**31)),
    )
