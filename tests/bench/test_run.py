"""The command line does what it says."""

import csv
import os
import shutil
import subprocess
import sys

import pytest
import torch

from bench.contest.records import OK, read_rows
from bench.problems.suites import SUITES


def run(script, *arguments, **options):
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=300, **options)


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
    # whichever of the two a CPU takes
    for path in ("c_path", "torch_path"):
        with open(tmp_path / "other" / "pargo_kernels" / path / "partial_global.py", "a") as file:
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
    check_dry_run(tmp_path / f"{suite}.csv", SUITES[suite].providers or ["pargo"])


def check_dry_run(path, names):
    rows = read_rows(path)
    assert {one.provider for one in rows} >= set(names)
    for one in rows:
        assert one.status != "wrong", f"{one.provider} on {one.problem}: {one.reason}"
        assert one.status == OK or one.reason
        assert (one.median_ms is None) == (one.status != OK)
    ours = [one for one in rows if one.provider == "pargo"]
    assert {one.status for one in ours} == {OK}
    # of steps of a projector, and of packed pictures, the backward is not timed by itself
    assert {one.direction for one in ours} >= {"forward", "forward+backward"}
