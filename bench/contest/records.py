"""The result file: one CSV row for each provider, problem and direction, with the machine and versions it was measured on."""

from __future__ import annotations

import csv
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from bench.contest.clocks import UNKNOWN, clocks

ROOT = Path(__file__).resolve().parents[2]
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
    # seconds of a process's first call by the C kernels: with an empty cache, and with theirs
    compile_s: float | None = None
    cached_s: float | None = None

    @property
    def first_use(self) -> str:
        """The seconds of the first calls in words; "" where there are none."""
        if self.compile_s is None or self.cached_s is None:
            return ""
        return f"C kernels compiled in {self.compile_s:.1f} s, had from their cache in {1e3 * self.cached_s:.0f} ms"

    def __str__(self) -> str:
        threads = f"{self.threads} threads, OMP_WAIT_POLICY {self.omp_wait_policy}"
        versions = f"torch {self.torch}, triton {self.triton}, python {self.python}"
        commit = f"commit {self.commit[:12]}{' with changes' if self.dirty else ''}"
        more = [self.clocks] * (self.clocks != UNKNOWN) + [self.first_use] * bool(self.first_use)
        return "; ".join((f"{self.device}, {threads}", commit, versions, *more))


@dataclass
class Row:
    """One line of the result file. Times are milliseconds, sizes bytes, rates per second; None leaves the field empty."""

    suite: str
    # rows of one group were measured in the same rounds
    group: int
    # what was computed: in words, its kind, and everything that it consists of, one column of JSON
    problem: str
    op: str
    configuration: dict[str, Any]
    dtype: str
    layout: str
    # forward, backward (timed inside the run of both) or forward+backward; a training step has parts of its own;
    # launched eagerly or replayed as a CUDA graph
    direction: str
    launch: str
    provider: str
    status: str
    reason: str = ""
    # largest error of a checked row against the fp64 oracle, relative to the row's size; of results in groups, the largest
    # of a group against the dense way in a wider dtype
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
    # what only this kind of problem has, one column of JSON
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def copy_share(self) -> float | None:
        """The rate at which the minimum was moved, as a share of the copy's."""
        if self.minimum_bytes_per_s is None or not self.copy_bytes_per_s:
            return None
        return self.minimum_bytes_per_s / self.copy_bytes_per_s

    @property
    def bound(self) -> tuple[float, str] | None:
        """What the machine allows at best: milliseconds, and whether its "memory" or its "arithmetic" sets them.

        The least traffic at the rate of the copy, or the least work at that of the matrix product, whichever takes longer.
        """
        if not (self.minimum_bytes and self.copy_bytes_per_s and self.minimum_flops and self.matmul_flops_per_s):
            return None
        times = (1e3 * self.minimum_bytes / self.copy_bytes_per_s, "memory")
        return max(times, (1e3 * self.minimum_flops / self.matmul_flops_per_s, "arithmetic"))


COLUMNS = tuple(one.name for one in (*fields(Row), *fields(Environment)))


class ResultFile:
    """Rows appended and flushed one by one to ``PATH.partial``, which becomes ``PATH`` when the run is complete.

    A run that is killed leaves its rows in the partial file, and an earlier complete file untouched.
    """

    def __init__(self, path: Path, environment: Environment):
        self.path, self.environment = path, environment
        self.partial = path.with_name(path.name + ".partial")

    def __enter__(self) -> ResultFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.partial, "w", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS)
        self._writer.writeheader()
        self._save()
        return self

    def add(self, row: Row) -> None:
        """Append a row; it is on disk when this returns."""
        cells = {**asdict(row), **asdict(self.environment)}
        self._writer.writerow({name: json.dumps(cell) if isinstance(cell, dict) else cell for name, cell in cells.items()})
        self._save()

    def __exit__(self, error: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None) -> None:
        self._file.close()
        if error is None:
            os.replace(self.partial, self.path)

    def _save(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


def read_rows(path: Path) -> list[Row]:
    """The rows of a result file; empty fields are None, and columns that a file of an earlier version lacks are as new."""
    return [_read(Row, line) for line in _lines(path)]


def read_environment(path: Path) -> Environment:
    """What a result file, of at least one row, was measured on."""
    return _read(Environment, _lines(path)[0])


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


_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": "True".__eq__,
    "dict[str, Any]": json.loads,
}


def _lines(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _read(kind: type, line: dict[str, str]) -> Any:
    return kind(**{one.name: _parse(one.type, line[one.name]) for one in fields(kind) if one.name in line})


def _parse(kind, text: str):
    if text == "" and kind.endswith(" | None"):
        return None
    return _FROM_TEXT[kind.removesuffix(" | None")](text)


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
