"""The two attentions as problems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch

from pargo_kernels.intervals import partial_bounds, window_bounds
from pargo_kernels.ops import cascaded_partial_attention, partial_global_attention

# query, key, value → out
Attention = Callable[..., torch.Tensor]


def configuration_of(problem: PartialGlobal | Cascaded) -> dict[str, Any]:
    """An attention's sizes by name; both attentions have the same names."""
    names = ("batch", "num_heads", "head_dim", "num_query", "num_keys", "num_partial", "num_global", "window", "edge")
    return {name: getattr(problem, name) for name in names}


@dataclass(frozen=True)
class PartialGlobal:
    """Partial-global attention (ParGo, Eq. 1): ``num_partial`` rows see a slice of the keys each, ``num_global`` see all."""

    batch: int
    num_heads: int
    head_dim: int
    num_keys: int
    num_partial: int
    num_global: int = 16
    op: ClassVar[str] = "pgp"
    window: ClassVar[int | None] = None
    edge: ClassVar[str | None] = None

    @property
    def num_query(self) -> int:
        return self.num_partial + self.num_global

    @property
    def configuration(self) -> dict[str, Any]:
        """Its sizes, for a row."""
        return configuration_of(self)

    def bounds(self) -> torch.Tensor:
        """The interval of keys that each query row sees, int64 ``[num_query, 2]``."""
        everything = torch.tensor([[0, self.num_keys]]).expand(self.num_global, 2)
        return torch.cat((partial_bounds(self.num_partial, self.num_keys), everything))

    def attention(self, impl: str) -> Attention:
        """This package's op on this problem."""
        op = cast(Attention, partial_global_attention)
        return lambda query, key, value: op(query, key, value, self.num_partial, impl=impl)

    def shrunk(self, step: int) -> PartialGlobal:
        """The same layout, tiny (a little larger with each step): for rehearsals, whose times mean nothing."""
        rows = 20 + 10 * step
        keys = rows * self.num_keys // self.num_partial
        return replace(self, batch=2, num_heads=2, head_dim=16, num_keys=keys, num_partial=rows, num_global=3)

    def __str__(self) -> str:
        return (
            f"PGP B{self.batch} H{self.num_heads} D{self.head_dim} n_v {self.num_keys} n_p {self.num_partial} "
            f"n_g {self.num_global}"
        )


@dataclass(frozen=True)
class Cascaded:
    """Cascaded attention (ParGo, Eq. 2): each of ``num_keys`` tokens sees ``window`` adjacent ones."""

    batch: int
    num_heads: int
    head_dim: int
    num_keys: int
    window: int
    edge: str = "clamp"
    op: ClassVar[str] = "cpp"
    num_global: ClassVar[int] = 0

    @property
    def num_query(self) -> int:
        return self.num_keys

    @property
    def num_partial(self) -> int:
        return self.num_keys

    @property
    def configuration(self) -> dict[str, Any]:
        """Its sizes, for a row."""
        return configuration_of(self)

    def bounds(self) -> torch.Tensor:
        """The interval of keys that each query row sees, int64 ``[num_query, 2]``."""
        return window_bounds(self.num_keys, self.window, self.edge)

    def attention(self, impl: str) -> Attention:
        """This package's op on this problem."""
        op = cast(Attention, cascaded_partial_attention)
        return lambda query, key, value: op(query, key, value, self.window, edge=self.edge, impl=impl)

    def shrunk(self, step: int) -> Cascaded:
        """The same layout, tiny (a little larger with each step): for rehearsals, whose times mean nothing."""
        tokens = 80 + 10 * step
        window = max(min(self.window, 5), tokens * self.window // self.num_keys)
        return replace(self, batch=2, num_heads=2, head_dim=16, num_keys=tokens, window=window)

    def __str__(self) -> str:
        edge = "" if self.edge == "clamp" else f" {self.edge}"
        return f"CPP B{self.batch} H{self.num_heads} D{self.head_dim} n {self.num_keys} w {self.window}{edge}"


Problem = PartialGlobal | Cascaded
