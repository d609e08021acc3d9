"""The result file keeps what it has, and the command line does what it says."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from bench.problems import SUITES
from bench.records import COLUMNS, OK, Environment, ResultFile, Row, environment, read_rows

PROMISED = {
    "device", "threads", "torch", "triton", "python", "commit", "dirty", "suite", "op", "batch", "num_heads", "head_dim",
    "num_keys", "num_partial", "num_global", "window", "edge", "dtype", "direction", "provider", "status", "reason",
    "median_ms", "q20_ms", "q80_ms", "images_per_s", "speedup_over_dense", "peak_bytes", "prepare_ms", "minimum_bytes",
    "minimum_bytes_per_s",
}  # fmt: skip
MACHINE = Environment("a, machine", 2, "PASSIVE", "2.13", "not installed", "3.11", "abc", True)


ROW = Row(
    suite="s", group=0, problem="p", op="pgp", batch=1, num_heads=2, head_dim=16, num_query=23, num_keys=40, num_partial=20,
    num_global=3, window=None, edge=None, dtype="fp32", layout="bhnd", direction="forward", launch="eager", provider="pargo",
    status=OK,
)  # fmt: skip


def run(script, *arguments, **options):
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=300, **options)


def test_rows_survive_the_file(tmp_path):
    rows = [
        replace(ROW, median_ms=1.25, peak_bytes=7),
        replace(ROW, status="failed", reason='a "quoted", comma\nand line', window=3),
    ]
    path = tmp_path / "s.csv"
    with ResultFile(path, MACHINE) as results:
        for one in rows:
            results.add(one)
            # on disk at once, in a file that says it is not complete
            assert read_rows(results.partial)[-1] == one
            assert not path.exists()
    assert read_rows(path) == rows
    assert set(COLUMNS) >= PROMISED
    with open(path, newline="") as file:
        assert {line["device"] for line in csv.DictReader(file)} == {"a, machine"}


def test_files_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "s.csv"
    with ResultFile(path, MACHINE) as results:
        results.add(replace(ROW, median_ms=1.25))
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    earlier = [name for name in COLUMNS if name not in ("copy_after_bytes_per_s", "clocks_after", "clocks")]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, earlier, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    assert read_rows(path) == [replace(ROW, median_ms=1.25)]


def test_a_killed_run_keeps_its_rows_and_the_earlier_run(tmp_path, bench_script):
    path = tmp_path / "s.csv"
    with ResultFile(path, MACHINE) as results:
        results.add(replace(ROW, provider="earlier"))
    program = f"""
import os, signal, sys
sys.path[:0] = [{str(bench_script.parents[1])!r}, {os.path.dirname(__file__)!r}]
from pathlib import Path
from bench.records import ResultFile
from dataclasses import replace
from test_bench_results import MACHINE, ROW
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


def test_list_names_all_there_is(bench_script):
    done = run(bench_script, "--list")
    assert done.returncode == 0, done.stderr
    for name in (*SUITES, "sdpa-mask-cudnn", "split-compiled", "flex"):
        assert name in done.stdout
    assert "PGP B1 H12 D64 n_v 65536" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "known"),
    [(["--suite", "fast"], "quick"), (["--providers", "pargo", "flexx"], "flex"), (["--dtype", "fp8"], "bf16")],
)
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(bench_script, arguments, known):
    done = run(bench_script, *arguments)
    assert done.returncode == 2
    assert arguments[-1] in done.stderr
    assert known in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_missing_device_is_an_error(bench_script):
    done = run(bench_script, "--device", "cuda")
    assert done.returncode == 2
    assert "sees no CUDA device" in done.stderr


def test_the_default_suite_end_to_end_on_tiny_shapes(tmp_path, bench_script):
    """As a user runs it, from another folder. Compiled providers have a test of their own, and a long one."""
    names = ["pargo", "sdpa-mask-flash", "sdpa-mask-cudnn", "split", "sliced", "blocks"]
    done = run(bench_script, "--dry-run", "--out", tmp_path / "out", "--providers", *names, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_dry_run(tmp_path / "out" / "quick.csv", names)
    assert "sdpa-mask-cudnn cannot run here" in done.stdout
    assert "pargo: forward + backward grows as n_v^" in done.stdout
    pictures = {file.name for file in (tmp_path / "out").glob("*.png")}
    assert {"quick_time.png", "quick_pgp_time_by_visual_tokens.png"} <= pictures
    assert not list((tmp_path / "out").glob("*.partial"))


def test_kernels_of_another_commit_take_the_place_of_these(tmp_path, bench_script):
    """What --base relies on: the child measures the other package, and says which commit that is."""
    shutil.copytree(bench_script.parents[1] / "pargo_kernels", tmp_path / "other" / "pargo_kernels")
    with open(tmp_path / "other" / "pargo_kernels" / "torch_path" / "partial_global.py", "a") as file:
        file.write("\n\ndef forward(*_):\n    raise RuntimeError('the other kernels')\n")
    other = {"PARGO_BENCH_KERNELS": str(tmp_path / "other"), "PARGO_BENCH_COMMIT": "c0ffee"}
    done = run(bench_script, "--dry-run", "--out", tmp_path, "--providers", "pargo", "split", env={**os.environ, **other})
    assert done.returncode == 0, done.stderr
    ours = [one for one in read_rows(tmp_path / "quick.csv") if one.provider == "pargo" and one.op == "pgp"]
    assert {(one.status, one.reason) for one in ours} == {("failed", "RuntimeError: the other kernels")}
    with open(tmp_path / "quick.csv", newline="") as file:
        assert {line["commit"] for line in csv.DictReader(file)} == {"c0ffee"}


def test_an_unknown_revision_is_an_error(bench_script):
    done = run(bench_script, "--base", "no-such-revision")
    assert done.returncode == 2
    assert "--base no-such-revision" in done.stderr


@pytest.mark.long
def test_a_commit_compared_with_itself(bench_script):
    done = run(bench_script, "--base", "HEAD", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "x as fast" in done.stdout
    assert "only in one" not in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_end_to_end_on_tiny_shapes(tmp_path, bench_script, suite):
    done = run(bench_script, "--suite", suite, "--dry-run", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    check_dry_run(tmp_path / f"{suite}.csv", ["pargo", *([] if SUITES[suite].providers == () else ["pargo-compiled"])])


def check_dry_run(path, names):
    rows = read_rows(path)
    assert {one.provider for one in rows} >= set(names)
    for one in rows:
        assert one.status != "wrong", f"{one.provider} on {one.problem}: {one.reason}"
        assert one.status == OK or one.reason
        assert (one.median_ms is None) == (one.status != OK)
    ours = [one for one in rows if one.provider == "pargo"]
    assert {one.status for one in ours} == {OK}
    assert {one.direction for one in ours} == {"forward", "backward", "forward+backward"}
