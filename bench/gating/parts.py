"""What the gate does, in order: parts, each with a cap and an estimate in seconds for one H100 or H200 with 16 cores.

Two gates of the same shape: the short one fits minutes, the full one is for a GPU of one's own.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

PROCESSES = 16
INTERPRETED = {"TRITON_INTERPRET": "1"}
# in a command: the seconds that the step has, less what it needs to end by itself
SECONDS = "{seconds}"


@dataclass(frozen=True)
class Step:
    """One command of a part.

    ``least`` is the seconds below which it is not worth starting (``estimate``, unless rows of a part of it are worth having);
    ``missing`` says why it cannot run here. What a ``local`` step does is of use on the machine where it ran, and nowhere else.
    """

    name: str
    command: list[str]
    estimate: float
    least: float | None = None
    cap: float | None = None
    environment: dict[str, str] = field(default_factory=dict)
    missing: str | None = None
    local: bool = False

    @property
    def needs(self) -> float:
        """Seconds that must be left for it to start."""
        return self.estimate if self.least is None else self.least


@dataclass(frozen=True)
class Part:
    """Steps that answer one question, in at most ``cap`` seconds (None: in what is left).

    Where a ``needed`` part fails, none follows.
    """

    name: str
    question: str
    cap: float | None
    steps: tuple[Step, ...]
    needed: bool = False

    @property
    def estimate(self) -> float:
        """Seconds that its steps are expected to take."""
        return sum(step.estimate for step in self.steps if not step.missing)

    def without_caps(self) -> Part:
        """The same for a machine that the caps were not made for."""
        return replace(self, cap=None, steps=tuple(replace(step, cap=None) for step in self.steps))


@dataclass(frozen=True)
class Place:
    """Where the gate runs, and where its results go: ``out`` is kept, ``scratch`` is not."""

    rehearsal: bool
    out: Path
    scratch: Path

    def python(self, *arguments: str) -> list[str]:
        """A command line of this interpreter."""
        return [sys.executable, *arguments]

    def measure(self, script: str, *arguments: str) -> list[str]:
        """A run of a benchmark's script."""
        small = ["--device", "cpu", "--dry-run"] if self.rehearsal else ["--device", "cuda"]
        return self.python(script, "--out", str(self.out), *small, *arguments)

    def bench(self, suite: str, *providers: str) -> list[str]:
        """A run of bench/run.py; in a rehearsal with these providers only."""
        few = ["--providers", *providers] if providers and self.rehearsal else []
        return self.measure("bench/run.py", "--suite", suite, *few)

    def tests(self, *arguments: str, processes: bool = True) -> list[str]:
        """A run of tests, the long ones left out."""
        spread = processes and not self.rehearsal and importlib.util.find_spec("xdist")
        many = ["-n", str(PROCESSES)] if spread else []
        return self.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *many, "-m", "not long", *arguments)

    @property
    def arch(self) -> str:
        """The launch table's architecture."""
        from pargo_kernels.triton_path.launch_table import architecture

        return architecture(torch.device("cpu" if self.rehearsal else "cuda"))


def short_gate(place: Place) -> list[Part]:
    """What a rented quarter of an hour can hold, the most telling first."""
    return [
        _preflight(place, 20),
        _warm_up(place, 60),
        Part("corners", "are the corner cases right on this GPU?", 60, (_corners(place, 45),)),
        _bitwise(place, 50),
        Part(
            "pgp",
            "how fast are the two flagship shapes, against the strongest rivals?",
            120,
            (Step("bench", place.bench("gate-pgp", "pargo", "bound-flash"), 100, 45),),
        ),
        Part(
            "cpp",
            "how fast is the cascade, window by window?",
            50,
            (Step("bench", place.bench("gate-cpp", "pargo", "bound-flash"), 42, 25),),
        ),
        _tune(place, 60),
        Part(
            "rest",
            "does a memory checker see a fault, and what do the projector, a training step and FlexAttention take?",
            None,
            (
                _sanitizer(
                    place, "memcheck", "corner and triton-cuda and bfloat16 and (packed and several or truncated)", 45, 75
                ),
                Step("projector", place.bench("gate-projector"), 30),
                Step("train", _training(place, "small", "--language-layers", "4", "--pictures", "4", "--stage", "2"), 75),
                # torch.compile times 36 kernels for each direction
                Step("flex", place.bench("gate-flex", "pargo"), 180, 90),
            ),
        ),
    ]


def full_gate(place: Place) -> list[Part]:
    """The same questions without a hurry."""
    corners = "corner and triton-cuda and bfloat16"
    return [
        _preflight(place, 120),
        _warm_up(place, 600),
        Part("tests", "are the kernels right on this GPU, in every test of theirs?", 1800, (_all_tests(place),)),
        _bitwise(place, 300),
        Part(
            "flagship",
            "how near the floor are the two shapes that matter most, against everybody?",
            1200,
            (Step("bench", place.bench("flagship", "pargo", "sdpa-mask-flash", "split"), 400),),
        ),
        Part(
            "band",
            "from which window on is dense attention as fast?",
            1200,
            (Step("bench", place.bench("band", "pargo", "sdpa-mask-flash"), 500),),
        ),
        _tune(place, 300),
        Part(
            "memory",
            "does a memory checker see an access outside a buffer, or a race?",
            1800,
            (_sanitizer(place, "memcheck", corners, 400), _sanitizer(place, "racecheck", corners, 600)),
        ),
        Part(
            "peers",
            "how fast is each op against every way to compute it that runs here?",
            1800,
            (Step("full", place.bench("full", "pargo", "sdpa-mask-flash", "split", "blocks"), 900),),
        ),
        Part(
            "projector",
            "what does a training step of the whole projector gain?",
            600,
            (Step("bench", place.bench("projector"), 120),),
        ),
        Part(
            "train",
            "what does a whole training step reach, and what do the kernels and packing gain in it?",
            900,
            (Step("paper", _training(place, "paper"), 400),),
        ),
    ]


# beside gate.json and gate.log
SHORT_KEPT = ("gate-pgp.csv", "gate-cpp.csv", "tuned.json", "gate-flex.csv", "gate-projector.csv", "train_small.csv")
FULL_KEPT = ("flagship.csv", "band.csv", "tuned.json", "full.csv", "projector.csv", "train_paper.csv")


def _preflight(place: Place, cap: float) -> Part:
    step = Step(
        "preflight",
        place.python("-m", "bench.gating.preflight"),
        16,
        least=10,
        environment=INTERPRETED if place.rehearsal else {},
        local=True,
    )
    return Part("preflight", "can kernels be built and launched here, and at what clocks?", cap, (step,), needed=True)


def _warm_up(place: Place, cap: float) -> Part:
    few = ["--processes", "2", "--sample", "2"] if place.rehearsal else ["--processes", str(PROCESSES)]
    command = place.python("-m", "bench.gating.warm_up", "--arch", place.arch, *few, "--seconds", SECONDS)
    step = Step("compile", command, 50, least=20, local=True)
    return Part("warm-up", "does everything compile that the parts below launch?", cap, (step,))


def _corners(place: Place, estimate: float) -> Step:
    file = "tests/kernels/test_accuracy.py"
    if place.rehearsal:
        return Step("tests", place.tests(file, "-k", "corner and truncated and float32"), estimate, environment=INTERPRETED)
    return Step("tests", place.tests(file, "-k", "corner and triton-cuda"), estimate)


def _all_tests(place: Place) -> Step:
    if place.rehearsal:
        command = place.tests("tests/kernels/test_kernels.py", "-k", "batch_row and chunk")
        return Step("tests", command, 600, environment=INTERPRETED)
    return Step("tests", place.tests("tests/kernels"), 600)


def _bitwise(place: Place, cap: float) -> Part:
    small = ["--small", "--dtypes", "fp16"] if place.rehearsal else []
    command = place.python("-m", "bench.gating.bitwise", *small)
    step = Step("bitwise", command, 35, least=25, environment=INTERPRETED if place.rehearsal else {})
    question = "is every kernel the same twice, and alone, bit for bit, in bf16, fp16 and fp32?"
    return Part("bitwise", question, cap, (step,))


def _tune(place: Place, cap: float) -> Part:
    command = place.python("-m", "pargo_kernels.tune", "--flagship", str(place.out / "tuned.json"), "--seconds", SECONDS)
    small = ["--rehearse"] if place.rehearsal else []
    step = Step("flagship", [*command, *small], 55, least=30, environment=INTERPRETED if place.rehearsal else {})
    return Part("tune", "which launch parameters are the fastest for the flagship lines, on this GPU and Triton?", cap, (step,))


def _sanitizer(place: Place, check: str, tests: str, estimate: float, cap: float | None = None) -> Step:
    tool = shutil.which("compute-sanitizer")
    missing = None
    if place.rehearsal:
        missing = "a memory checker needs a GPU"
    elif tool is None:
        missing = "compute-sanitizer is not installed"
    command = place.tests("tests/kernels/test_accuracy.py", "-k", tests, processes=False)
    return Step(
        check,
        [tool or "compute-sanitizer", "--tool", check, "--error-exitcode", "9", *command],
        estimate,
        cap=cap,
        # the caching allocator's blocks are larger than tensors: an access past a tensor's end would be inside
        environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        missing=missing,
    )


def _training(place: Place, size: str, *arguments: str) -> list[str]:
    return place.measure("bench/train.py", "--size", size, *arguments)
