"""An earlier commit's kernels against this checkout's: the same benchmark in processes that take turns."""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from pathlib import Path

from bench.contest.records import OK, ROOT, read_rows

# a process at a time, the earlier commit first, then this checkout, and again
TURNS = 3


def compare(revision: str, suite: str, arguments: list[str]) -> str:
    """Measure this package's rows of a suite with both kernels; returns a table of medians and their ratio.

    Args:
        revision: any name of a commit that git knows.
        arguments: the rest of the command line, passed on to each run.

    Raises:
        ValueError: if git does not know the commit, or the commit has no pargo_kernels.
    """
    with tempfile.TemporaryDirectory() as folder:
        commit = _extract(revision, Path(folder))
        # where run.py imports pargo_kernels from, and which commit that is
        other = {"PARGO_BENCH_KERNELS": folder, "PARGO_BENCH_COMMIT": commit}
        times: dict[str, dict[tuple[str, str, str, str], list[float]]] = {"base": defaultdict(list), "here": defaultdict(list)}
        for turn in range(TURNS):
            for side, extra in (("base", other), ("here", {})):
                out = Path(folder) / f"{side}{turn}"
                command = [sys.executable, str(ROOT / "bench" / "run.py"), "--suite", suite, "--out", str(out), *arguments]
                subprocess.run(command, env={**os.environ, **extra}, check=True, stdout=subprocess.DEVNULL)
                for row in read_rows(out / f"{suite}.csv"):
                    if row.status == OK and row.median_ms:
                        times[side][row.problem, row.provider, row.direction, row.launch].append(row.median_ms)
    return _table(commit, times["base"], times["here"])


def _extract(revision: str, folder: Path) -> str:
    """Unpack pargo_kernels as of the revision into the folder; returns the commit's name."""
    try:
        commit = _git("rev-parse", "--verify", f"{revision}^{{commit}}").decode().strip()
        archive = _git("archive", commit, "pargo_kernels")
    except subprocess.CalledProcessError as error:
        raise ValueError(f"--base {revision}: git finds no pargo_kernels there: {error.stderr.decode().strip()}") from error
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return commit


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


def _table(commit: str, base: dict, here: dict) -> str:
    lines = [f"base is {commit[:12]}; milliseconds: median of {TURNS} runs and their range; below 1 is slower than base"]
    for key in here:
        if key in base:
            ratio = statistics.median(base[key]) / statistics.median(here[key])
            problem, provider, direction, launch = key
            name = f"{problem}, {provider}, {direction}{'' if launch == 'eager' else ', ' + launch}"
            lines.append(f"{name}: base {_spread(base[key])}, here {_spread(here[key])}, {ratio:.2f} x as fast")
    lines += [f"only in one of the two: {', '.join(key)}" for key in base.keys() ^ here.keys()]
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g}-{max(values):.3g})"
