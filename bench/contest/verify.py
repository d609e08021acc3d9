"""Every provider must agree with the fp64 oracle before it is timed.

The oracle's dense mask does not fit at tens of thousands of keys, and need not: heads are independent, and rows are too.
A few (image, head) pairs are checked, and in each a set of rows against all keys. The oracle restricted to those rows gives
their outputs and query gradients exactly; it gives the gradients of a key exactly if all rows that see the key are in the
set, so the set is built from the rows of some sampled keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bench.problems.attention import Problem
from pargo_kernels.intervals import interval_mask
from pargo_kernels.reference import masked_attention

# largest error of any row, relative to its size (see relative_error)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 5e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# cells (row, key) of the oracle: in all, and in one piece of it
BUDGET_CELLS = {"cpu": 1 << 22, "cuda": 1 << 28}
PIECE_CELLS = 1 << 24
MAX_PAIRS, MIN_PAIRS = 8, 2


@dataclass(frozen=True)
class Inputs:
    """query ``[B, H, n_q, D]``, key and value ``[B, H, n_v, D]`` (leaves that want gradients), and the gradient of out."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    grad_out: torch.Tensor

    @property
    def leaves(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.query, self.key, self.value


@dataclass(frozen=True)
class Expected:
    """What the oracle says about sampled rows and keys of sampled (image, head) pairs, fp64 ``[pairs, sampled, D]``."""

    images: torch.Tensor
    heads: torch.Tensor
    rows: torch.Tensor
    keys: torch.Tensor
    # the usual norm of a sampled row's output and gradient, and of a sampled key's gradients
    row_size: torch.Tensor
    key_size: torch.Tensor
    out: torch.Tensor
    grad_query: torch.Tensor
    grad_key: torch.Tensor
    grad_value: torch.Tensor


def expect(problem: Problem, inputs: Inputs, seed: int = 0) -> Expected:
    """Run the oracle on samples of the problem: everything in some heads where that is cheap, else sampled rows."""
    bounds = problem.bounds()
    budget = BUDGET_CELLS[inputs.query.device.type]
    cells = problem.num_query * problem.num_keys
    pairs = _spread(problem.batch * problem.num_heads, max(MIN_PAIRS, min(MAX_PAIRS, budget // cells)))
    rows, keys = _sample(bounds, problem.num_keys, budget // len(pairs), torch.Generator().manual_seed(seed))
    images, heads = pairs // problem.num_heads, pairs % problem.num_heads
    device = inputs.query.device
    images, heads, rows, keys, bounds = (t.to(device) for t in (images, heads, rows, keys, bounds))

    width = (bounds[:, 1] - bounds[:, 0]).double()

    # [pairs, 1, tokens, D]: each pair is an image with one head
    query, grad_out = (t.detach()[images, heads][:, None, rows].double() for t in (inputs.query, inputs.grad_out))
    key, value = (t.detach()[images, heads][:, None].double().requires_grad_() for t in (inputs.key, inputs.value))
    out, grad_query = [], []
    for piece in rows_in_pieces(len(rows), max(1, PIECE_CELLS // (problem.num_keys * len(pairs)))):
        rows_query = query[:, :, piece].requires_grad_()
        mask = interval_mask(bounds[rows[piece]], problem.num_keys)
        rows_out, _ = masked_attention(rows_query, key, value, mask, problem.head_dim**-0.5)
        rows_out.backward(grad_out[:, :, piece])
        out.append(rows_out.detach()[:, 0])
        grad_query.append(_grad(rows_query))
    return Expected(
        images=images,
        heads=heads,
        rows=rows,
        keys=keys,
        row_size=(problem.head_dim / width[rows]).sqrt(),
        key_size=(problem.head_dim / narrowest(bounds, width, keys)).sqrt(),
        out=torch.cat(out, dim=1),
        grad_query=torch.cat(grad_query, dim=1),
        grad_key=_grad(key)[:, keys],
        grad_value=_grad(value)[:, keys],
    )


def rows_in_pieces(count: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that cover ``range(count)``."""
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


def disagreement(
    expected: Expected, inputs: Inputs, out: torch.Tensor, grads: tuple[torch.Tensor, ...] | None
) -> tuple[float, str | None]:
    """The largest relative error of any sampled row, and, if the result is wrong, what is wrong with it."""
    dtype = inputs.query.dtype
    checks = [("out", out, inputs.query, expected.rows, expected.row_size, expected.out)]
    if grads is not None:
        checks += [
            ("grad of query", grads[0], inputs.query, expected.rows, expected.row_size, expected.grad_query),
            ("grad of key", grads[1], inputs.key, expected.keys, expected.key_size, expected.grad_key),
            ("grad of value", grads[2], inputs.value, expected.keys, expected.key_size, expected.grad_value),
        ]
    worst, reason = 0.0, None
    for name, actual, like, index, size, want in checks:
        if actual.shape != like.shape or actual.dtype != dtype:
            return float("nan"), f"{name} is {actual.dtype} {list(actual.shape)}, not {dtype} {list(like.shape)}"
        error = relative_error(actual.detach()[expected.images, expected.heads][:, index], want, size)
        # NaN compares false: it is never within the tolerance
        if not error <= TOLERANCE[dtype] and reason is None:
            reason = f"{name} differs from the fp64 oracle by {error:.1e} of a row's size (at most {TOLERANCE[dtype]:.0e})"
        worst = error if not error <= worst else worst
    return worst, reason


def relative_error(actual: torch.Tensor, want: torch.Tensor, size: torch.Tensor) -> float:
    """Largest error of a row of ``[pairs, rows, D]``, relative to its norm, or to ``size`` (``[rows]``) if that is larger.

    Inputs are standard normal, so the weighted mean of ``w`` vectors has a norm of about ``sqrt(D / w)``, gradients too. A
    row that is smaller by cancellation is not held to its own norm (with one visible key, scores have no gradient at all);
    a row that sees everything is held to its small size, not to that of the others.
    """
    scale = torch.maximum(want.norm(dim=-1), size)
    return float(((actual.double() - want).norm(dim=-1) / scale).max())


def narrowest(bounds: torch.Tensor, width: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """For each of ``keys``, the smallest width among the rows that see it."""
    sees = (bounds[:, :1] <= keys) & (keys < bounds[:, 1:])
    return torch.where(sees, width[:, None], float("inf")).min(dim=0).values


def _grad(leaf: torch.Tensor) -> torch.Tensor:
    assert leaf.grad is not None
    return leaf.grad[:, 0]


def _spread(count: int, wanted: int) -> torch.Tensor:
    """``wanted`` of ``range(count)``, the first and the last among them."""
    return torch.linspace(0, count - 1, min(count, wanted)).round().long().unique()


def _sample(bounds: torch.Tensor, num_keys: int, budget: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows worth at most ``budget`` cells, and keys all of whose rows are among them."""
    if len(bounds) * num_keys <= budget:
        return torch.arange(len(bounds)), torch.arange(num_keys)
    # borders first: that is where intervals go wrong
    borders = torch.tensor([0, num_keys - 1, 1, num_keys - 2])
    candidates = torch.cat((borders, torch.randperm(num_keys, generator=generator)[:128]))
    chosen = torch.zeros(len(bounds), dtype=torch.bool)
    chosen[torch.randperm(len(bounds), generator=generator)[:128]] = True
    keys: list[int] = []
    for key in candidates.tolist():
        seeing = (bounds[:, 0] <= key) & (key < bounds[:, 1])
        # the first key is taken whatever it costs: a check without key gradients is none
        if keys and int((chosen | seeing).sum()) * num_keys > budget:
            break
        chosen |= seeing
        keys.append(key)
    return chosen.nonzero().flatten(), torch.tensor(keys).unique()
