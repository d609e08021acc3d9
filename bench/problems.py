"""What is computed: the attention problems and the suites that group them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch

from pargo_kernels.intervals import cascade_windows, partial_bounds, window_bounds
from pargo_kernels.ops import cascaded_partial_attention, partial_global_attention

# query, key, value → out
Attention = Callable[..., torch.Tensor]


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


@dataclass(frozen=True)
class ProjectorStep:
    """Forward and backward of the whole ParGo projector, as wide as the encoder; the paper's has six layers."""

    batch: int
    num_keys: int
    num_partial: int = 288
    num_global: int = 16
    num_layers: int = 6
    width: int = 1024
    num_heads: int = 16
    op: ClassVar[str] = "projector"

    def shrunk(self, step: int) -> ProjectorStep:
        """The same, tiny."""
        return replace(
            self, batch=2, num_keys=40 + 10 * step, num_partial=20, num_global=3, num_layers=2, width=32, num_heads=2
        )

    def __str__(self) -> str:
        layers = f"{self.num_layers} layers, {self.width} wide, {self.num_heads} heads"
        return f"projector B{self.batch} n_v {self.num_keys} n_p {self.num_partial} n_g {self.num_global}, {layers}"


@dataclass(frozen=True)
class AnyResolution:
    """Partial-global attention of pictures with ``lengths`` visual tokens."""

    lengths: tuple[int, ...]
    num_heads: int
    head_dim: int
    num_partial: int = 288
    num_global: int = 16
    op: ClassVar[str] = "anyres"

    @property
    def num_query(self) -> int:
        return self.num_partial + self.num_global

    def shrunk(self, step: int) -> AnyResolution:
        """The same, tiny."""
        lengths = tuple(20 + 3 * index + step for index, _ in enumerate(self.lengths[:3]))
        return replace(self, lengths=lengths, num_heads=2, head_dim=16, num_partial=12, num_global=3)

    def __str__(self) -> str:
        pictures = f"{len(self.lengths)} pictures of n_v {min(self.lengths)}-{max(self.lengths)}"
        return f"anyres {pictures}, H{self.num_heads} D{self.head_dim} n_p {self.num_partial} n_g {self.num_global}"


Problem = PartialGlobal | Cascaded
# measured by modules of their own
OtherProblem = ProjectorStep | AnyResolution


@dataclass(frozen=True)
class Case:
    """Problems that are measured in the same rounds, and who computes them: all providers, or only those named.

    Usually one problem, whose providers are compared. Several problems when a provider's times are compared with each other.
    """

    problems: tuple[Problem | OtherProblem, ...]
    providers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Suite:
    """A named list of cases that answers one question."""

    name: str
    question: str
    cases: tuple[Case, ...]
    # None: every provider that exists; names keep a suite short
    providers: tuple[str, ...] | None = None
    # seconds spent on one direction of one case, when its calls are short enough to choose
    seconds: float = 3.0


# the sizes from which the growth of time with n_v is fitted
SCALING_SIZES = (2304, 4608, 9216, 18432, 36864)

_PAPER_PGP = PartialGlobal(64, 16, 64, 576, 288)
_PAPER_CPP = tuple(Cascaded(64, 16, 64, 288, window) for window in cascade_windows(288, 6))


def _sweep(sizes: tuple[int, ...], batch: int = 1, num_heads: int = 12) -> tuple[PartialGlobal, ...]:
    return tuple(PartialGlobal(batch, num_heads, 64, size, size // 2) for size in sizes)


def _bands(num_tokens: int, windows: tuple[int, ...], batch: int, num_heads: int) -> tuple[Cascaded, ...]:
    return tuple(Cascaded(batch, num_heads, 64, num_tokens, window) for window in windows)


def _cases(*problems: Problem | OtherProblem) -> tuple[Case, ...]:
    return tuple(Case((problem,)) for problem in problems)


_FLAGSHIP = (_PAPER_PGP, PartialGlobal(1, 16, 64, 65536, 32768))
_GROWTH = Case(_sweep(SCALING_SIZES), ("pargo",))

SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "quick",
            "how much faster than the alternatives, on this machine, in two minutes?",
            (
                *_cases(
                    PartialGlobal(8, 12, 64, 576, 288),
                    PartialGlobal(1, 12, 64, 9216, 4608),
                    Cascaded(8, 12, 64, 288, 48),
                    Cascaded(1, 12, 64, 4608, 48),
                ),
                _GROWTH,
            ),
            providers=(
                "pargo",
                "pargo-compiled",
                "sdpa-mask-flash",
                "sdpa-mask-efficient",
                "sdpa-mask-cudnn",
                "split",
                "split-compiled",
                "sliced",
                "blocks",
                "blocks-compiled",
                "flex",
            ),
            seconds=1.5,
        ),
        Suite(
            "full",
            "how do time and memory grow with visual tokens and with the window?",
            (
                *_cases(
                    PartialGlobal(8, 12, 64, 576, 288),
                    *_sweep((576, 1152, *SCALING_SIZES, 65536)),
                    *_bands(288, tuple(cascade_windows(288, 6)), batch=8, num_heads=12),
                    *_bands(4608, (48, 192, 768, 2304, 4608), batch=1, num_heads=12),
                    *_bands(32768, (48, 288, 1024, 4096), batch=1, num_heads=12),
                ),
                _GROWTH,
            ),
        ),
        Suite(
            "flagship",
            "how near the floor are the two shapes that matter most?",
            _cases(*_FLAGSHIP),
        ),
        Suite(
            "gate-pgp",
            "how near the floor are the two shapes that matter most, and how far ahead of the strongest rivals?",
            (
                *(
                    Case((problem,), ("pargo", "bound-flash", "sdpa-mask-efficient", "sdpa-mask-cudnn"))
                    for problem in _FLAGSHIP
                ),
                # by themselves, after the rest: torch.compile takes a third of the time
                *(Case((problem,), ("pargo", "split-compiled")) for problem in _FLAGSHIP),
            ),
            seconds=1.0,
        ),
        Suite(
            "gate-cpp",
            "from which window on is dense attention as fast, in less than a minute?",
            _cases(*_PAPER_CPP, Cascaded(1, 16, 64, 32768, 48)),
            providers=("pargo", "bound-flash", "sdpa-mask-efficient", "sdpa-mask-cudnn"),
            seconds=0.4,
        ),
        Suite(
            "gate-flex",
            "how far ahead of FlexAttention, blocks of 128 and of 16 rows?",
            (Case((_PAPER_PGP,)), Case((_PAPER_CPP[0],))),
            providers=("pargo", "flex", "flex-rows16"),
            seconds=0.5,
        ),
        Suite(
            "gate-projector",
            "what does a training step of the whole projector gain, in half a minute?",
            (Case((ProjectorStep(32, 576),)),),
            providers=(),
            seconds=4.0,
        ),
        Suite(
            "projector",
            "what does a training step of the whole projector gain?",
            (Case((ProjectorStep(32, 576),)), Case((ProjectorStep(4, 9216),))),
            providers=(),
            seconds=10.0,
        ),
        Suite(
            "anyres",
            "what does packing pictures of different sizes gain over padding them?",
            (
                # one to five tiles of 576 tokens, most pictures small
                Case((AnyResolution(tuple(576 * tiles for tiles in (1, 1, 1, 2, 2, 3, 4, 5)), 16, 64),)),
                Case((AnyResolution(tuple(range(300, 4000, 460)), 16, 64),)),
            ),
            providers=(),
            seconds=10.0,
        ),
        Suite("paper", "what does it gain at the paper's shape, layer by layer?", _cases(_PAPER_PGP, *_PAPER_CPP)),
        Suite(
            "long",
            "what does it gain for long inputs (documents, video)?",
            _cases(
                *_sweep((4096, 16384, 65536), num_heads=16),
                *(Cascaded(1, 16, 64, size, 48) for size in (2048, 8192, 32768)),
            ),
        ),
        Suite(
            "band",
            "from which window on is dense attention as fast?",
            _cases(
                *_bands(288, (1, 16, 48, 96, 144, 192, 288), batch=64, num_heads=16),
                *_bands(4608, (48, 192, 768, 2304, 4608), batch=4, num_heads=16),
                *_bands(32768, (48, 288, 1024, 4096, 16384), batch=1, num_heads=16),
                Cascaded(64, 16, 64, 288, 48, "truncate"),
                Cascaded(1, 16, 64, 32768, 48, "truncate"),
            ),
        ),
    )
}
