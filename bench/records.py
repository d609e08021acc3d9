"""The result file: one CSV row for each provider, problem and direction, with the machine and versions it was measured on."""

from __future__ import annotations

import csv
import os
import platform
import re
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch

from bench.clocks import UNKNOWN, clocks

ROOT = Path(__file__).resolve().parent.parent
# the status of a row; only "ok" rows hold times
OK = "ok"
WRONG = "wrong"  # differs from the oracle
FAILED = "failed"  # raised
SKIPPED = "skipped"  # over the budget of time or memory
INAPPLICABLE = "inapplicable"  # computes something else
UNAVAILABLE = "unavailable"  # cannot run on this machine at all


@dataclass(frozen=True)
class Environment:
    """The machine, the versions and the commit of a run."""

    device: str
    threads: int
    omp_wait_policy: str
    torch: str
    triton: str
    python: str
    commit: str
    dirty: bool
    # of the GPU when the run began
    clocks: str = UNKNOWN

    def __str__(self) -> str:
        return (
            f"{self.device}, {self.threads} threads; commit {self.commit[:12]}{' with changes' if self.dirty else ''}; "
            f"torch {self.torch}, triton {self.triton}, python {self.python}"
            f"{'' if self.clocks == UNKNOWN else f'; {self.clocks}'}"
        )


@dataclass
class Row:
    """One line of the result file. Times are milliseconds, sizes bytes, rates per second; None leaves the field empty."""

    suite: str
    # rows of one group were measured in the same rounds
    group: int
    # what was computed
    problem: str
    op: str
    batch: int
    num_heads: int
    head_dim: int
    num_query: int
    num_keys: int
    num_partial: int
    num_global: int
    window: int | None
    edge: str | None
    dtype: str
    layout: str
    # forward, backward (timed inside the run of both) or forward+backward; launched eagerly or replayed as a CUDA graph
    direction: str
    launch: str
    provider: str
    status: str
    reason: str = ""
    # largest error of a checked row against the fp64 oracle, relative to the row's size
    error: float | None = None
    median_ms: float | None = None
    q20_ms: float | None = None
    q80_ms: float | None = None
    rounds: int | None = None
    calls: int | None = None
    images_per_s: float | None = None
    # the fastest verified SDPA with the dense mask, divided by this row
    speedup_over_dense: float | None = None
    # most bytes alive at once in one call beyond the inputs, the provider's masks included
    peak_bytes: int | None = None
    # building masks and indices, once per shape; the first call, compilation included
    prepare_ms: float | None = None
    first_call_ms: float | None = None
    # what any implementation must move and compute, and the rate at which this one moved that minimum
    minimum_bytes: int | None = None
    minimum_flops: int | None = None
    minimum_bytes_per_s: float | None = None
    # what this package's kernels move by their tile schedule, and the rate at which they did
    scheduled_bytes: int | None = None
    scheduled_bytes_per_s: float | None = None
    # of a large copy (read and written bytes) and of a large matrix product in this dtype, measured in the same run
    copy_bytes_per_s: float | None = None
    matmul_flops_per_s: float | None = None
    # of the last minute, when the row had been measured: above the number of threads, others were at work too
    load_average: float | None = None
    # the copy and the clocks again, right after the row had been timed
    copy_after_bytes_per_s: float | None = None
    clocks_after: str | None = None


@dataclass
class TrainingRow:
    """One line of the training step's result file, in the units of :class:`Row`."""

    # rows of one group were measured in the same rounds
    group: int
    # what was trained: the model's size, its layers, its parameters; what of them trains
    size: str
    language_layers: int
    stage: int
    parameters: int
    trained: int
    dtype: str
    gradient_checkpointing: bool
    # on what: so many pictures at once with what is said about them, drawn with a seed
    lengths: str
    seed: int
    pictures: int
    tokens: int
    labels: int
    # how, in words: the projector's attention, how the examples stand in rows, the language model's attention
    way: str
    projector: str
    rows: str
    attention: str
    status: str
    reason: str = ""
    # rows and their length; their product is what the language model computes on, tokens and padding
    num_rows: int | None = None
    row_length: int | None = None
    loss: float | None = None
    # relative to the dense, padded step in the next wider dtype
    loss_error: float | None = None
    gradient_error: float | None = None
    median_ms: float | None = None
    q20_ms: float | None = None
    q80_ms: float | None = None
    rounds: int | None = None
    calls: int | None = None
    # medians of the step's parts
    encoder_ms: float | None = None
    forward_ms: float | None = None
    backward_ms: float | None = None
    optimizer_ms: float | None = None
    first_call_ms: float | None = None
    # of what the examples hold: padding and repeated tokens do not count
    tokens_per_s: float | None = None
    images_per_s: float | None = None
    # operations that the mathematics of the step needs, their rate, and its share of the device's peak
    model_flops: float | None = None
    flops_per_s: float | None = None
    mfu: float | None = None
    # dense attention in the projector and padded rows, divided by this row
    speedup_over_dense: float | None = None
    # weights and the optimizer's states; the most bytes alive at once in a step beyond them; what was expected in all
    held_bytes: int | None = None
    peak_bytes: int | None = None
    estimated_bytes: int | None = None
    matmul_flops_per_s: float | None = None
    load_average: float | None = None


Kind = TypeVar("Kind", Row, TrainingRow)


def columns(kind: type) -> tuple[str, ...]:
    """The columns of a result file with rows of a kind."""
    return tuple(field.name for field in (*fields(kind), *fields(Environment)))


COLUMNS = columns(Row)


class ResultFile:
    """Rows appended and flushed one by one to ``PATH.partial``, which becomes ``PATH`` when the run is complete.

    A run that is killed leaves its rows in the partial file, and an earlier complete file untouched.
    """

    def __init__(self, path: Path, environment: Environment, kind: type = Row):
        self.path, self.environment, self.columns = path, environment, columns(kind)
        self.partial = path.with_name(path.name + ".partial")

    def __enter__(self) -> ResultFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.partial, "w", newline="")
        self._writer = csv.DictWriter(self._file, self.columns)
        self._writer.writeheader()
        self._save()
        return self

    def add(self, row: Row | TrainingRow) -> None:
        """Append a row; it is on disk when this returns."""
        self._writer.writerow({**asdict(row), **asdict(self.environment)})
        self._save()

    def __exit__(self, error: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None) -> None:
        self._file.close()
        if error is None:
            os.replace(self.partial, self.path)

    def _save(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


def read_rows(path: Path, kind: type[Kind] = Row) -> list[Kind]:  # type: ignore[assignment]
    """The rows of a result file; empty fields, and columns that a file of an earlier version lacks, are None."""
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    return [kind(**{field.name: _parse(field.type, line.get(field.name, "")) for field in fields(kind)}) for line in lines]


def environment(device: torch.device) -> Environment:
    """What this run is measured on."""
    commit = os.environ.get("PARGO_BENCH_COMMIT") or _git("rev-parse", "HEAD")
    # results are no source: committing them beside the code they measure keeps the tree clean
    changes = _git("status", "--porcelain", "--", ".", ":(exclude)bench/results")
    return Environment(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        threads=torch.get_num_threads(),
        omp_wait_policy=os.environ.get("OMP_WAIT_POLICY", "default"),
        torch=torch.__version__,
        triton=_installed("triton"),
        python=platform.python_version(),
        commit=commit or "unknown",
        dirty=bool(changes),
        clocks=clocks(device),
    )


def slug(name: str) -> str:
    """A device name as a folder name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


_FROM_TEXT: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str, "bool": "True".__eq__}


def _parse(kind, text: str):
    optional = "None" in kind
    if text == "" and optional:
        return None
    return _FROM_TEXT[kind.split(" | ")[0]](text)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
