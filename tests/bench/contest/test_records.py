"""The result file keeps what it has."""

import csv
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from bench.contest.records import COLUMNS, ResultFile, environment, read_environment, read_rows
from tests.bench.made.places import ROOT
from tests.bench.made.rows import MACHINE, ROW

PROMISED = {
    "device", "threads", "torch", "triton", "python", "commit", "dirty", "suite", "op", "configuration", "dtype", "direction",
    "provider", "status", "reason", "median_ms", "q20_ms", "q80_ms", "images_per_s", "speedup_over_dense", "peak_bytes",
    "prepare_ms", "minimum_bytes", "minimum_bytes_per_s",
}  # fmt: skip


def test_rows_survive_the_file(tmp_path):
    rows = [
        replace(ROW, median_ms=1.25, peak_bytes=7),
        replace(ROW, status="failed", reason='a "quoted", comma\nand line', configuration={"window": 3, "edge": None}),
    ]
    path = tmp_path / "s.csv"
    machine = replace(MACHINE, compile_s=3.25, cached_s=0.004, dirty=False)
    with ResultFile(path, machine) as results:
        for one in rows:
            results.add(one)
            # on disk at once, in a file that says it is not complete
            assert read_rows(results.partial)[-1] == one
            assert not path.exists()
    assert read_rows(path) == rows
    assert read_environment(path) == machine
    assert set(COLUMNS) >= PROMISED
    with open(path, newline="") as file:
        assert {line["device"] for line in csv.DictReader(file)} == {"a, machine"}


def test_files_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "s.csv"
    with ResultFile(path, MACHINE) as results:
        results.add(replace(ROW, median_ms=1.25))
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    later = ("copy_after_bytes_per_s", "clocks_after", "clocks", "compile_s", "cached_s")
    earlier = [name for name in COLUMNS if name not in later]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, earlier, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    assert read_rows(path) == [replace(ROW, median_ms=1.25)]
    assert read_environment(path) == MACHINE


def test_a_killed_run_keeps_its_rows_and_the_earlier_run(tmp_path):
    path = tmp_path / "s.csv"
    with ResultFile(path, MACHINE) as results:
        results.add(replace(ROW, provider="earlier"))
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from bench.contest.records import ResultFile
from dataclasses import replace
from tests.bench.made.rows import MACHINE, ROW
with ResultFile(Path({str(path)!r}), MACHINE) as results:
    for name in ("one", "two"):
        results.add(replace(ROW, provider=name))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert [one.provider for one in read_rows(path)] == ["earlier"]
    assert [one.provider for one in read_rows(tmp_path / "s.csv.partial")] == ["one", "two"]


def test_an_interrupted_run_does_not_pass_for_a_complete_one(tmp_path):
    def interrupted():
        with ResultFile(tmp_path / "s.csv", MACHINE) as results:
            results.add(ROW)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not (tmp_path / "s.csv").exists()
    assert len(read_rows(tmp_path / "s.csv.partial")) == 1


def test_environment_is_this_machine():
    machine = environment(torch.device("cpu"))
    assert machine.torch == torch.__version__
    assert machine.threads == torch.get_num_threads()
    assert machine.device
