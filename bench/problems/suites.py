"""The suites: cases that answer one question each."""

from __future__ import annotations

from dataclasses import dataclass

from bench.problems.anyres import AnyResolution
from bench.problems.attention import Cascaded, PartialGlobal, Problem
from bench.problems.projector import ProjectorStep
from pargo_kernels.intervals import cascade_windows

AnyProblem = Problem | ProjectorStep | AnyResolution


@dataclass(frozen=True)
class Case:
    """Problems that are measured in the same rounds, and who computes them: all providers, or only those named.

    Usually one problem, whose providers are compared. Several problems when a provider's times are compared with each other.
    """

    problems: tuple[AnyProblem, ...]
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
    # on a CPU: what torch.compile kept of earlier runs is not used, so that first calls are what a user's first calls are
    cold: bool = False


# the sizes from which the growth of time with n_v is fitted
SCALING_SIZES = (2304, 4608, 9216, 18432, 36864)

_PAPER_PGP = PartialGlobal(64, 16, 64, 576, 288)
_PAPER_CPP = tuple(Cascaded(64, 16, 64, 288, window) for window in cascade_windows(288, 6))


def _sweep(sizes: tuple[int, ...], batch: int = 1, num_heads: int = 12) -> tuple[PartialGlobal, ...]:
    return tuple(PartialGlobal(batch, num_heads, 64, size, size // 2) for size in sizes)


def _bands(num_tokens: int, windows: tuple[int, ...], batch: int, num_heads: int) -> tuple[Cascaded, ...]:
    return tuple(Cascaded(batch, num_heads, 64, num_tokens, window) for window in windows)


def _cases(*problems: AnyProblem) -> tuple[Case, ...]:
    return tuple(Case((problem,)) for problem in problems)


_FLAGSHIP = (_PAPER_PGP, PartialGlobal(1, 16, 64, 65536, 32768))
_GROWTH = Case(_sweep(SCALING_SIZES), ("pargo",))

_WIDE_RIVALS = (
    "pargo",
    "pargo-torch",
    "sdpa-mask-flash",
    "sdpa-full-flash",
    "sliced",
    "sliced-compiled",
    "flex-8x16",
    "flex-16x32",
)

SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "quick",
            "how much faster than the alternatives, on this machine, in some minutes?",
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
                "pargo-torch",
                "split",
                "split-compiled",
                "split-matmul-compiled",
                "sliced",
                "sliced-compiled",
                "blocks",
                "blocks-compiled",
                "neighbours-compiled",
                "flex",
                "flex-8x16",
                "flex-16x32",
            ),
            seconds=1.5,
            cold=True,
        ),
        Suite(
            "cpu-band",
            "how much faster than the alternatives at every window, on a CPU?",
            (
                *_cases(
                    *_bands(288, (1, 16, 48, 72, 96, 144, 192, 288), batch=8, num_heads=12),
                    *_bands(4608, (48, 192, 768), batch=1, num_heads=12),
                ),
                # where a window is a quarter or more of so many tokens, gathered keys and stored scores are no rivals
                *(Case((problem,), _WIDE_RIVALS) for problem in _bands(4608, (1152, 2304, 4608), batch=1, num_heads=12)),
            ),
            providers=(*_WIDE_RIVALS, "blocks", "blocks-compiled", "neighbours-compiled"),
            seconds=1.0,
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
            "cpu-projector",
            "what does a training step of the whole projector gain, on a CPU?",
            (Case((ProjectorStep(2, 576),)),),
            providers=(),
            seconds=20.0,
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
