"""The programs of the gate's steps: each finds what it is there to find."""

import json
import subprocess
import sys

import pytest
import torch

from bench.gating import bitwise, preflight
from bench.gating.calls import CALLS, KERNELS, SMALL_CALLS, Call, kernels_of, worst_error
from pargo_kernels.dispatch import TRITON_INSTALLED
from tests.bench.made.places import ROOT

pytestmark = pytest.mark.skipif(not TRITON_INSTALLED, reason="triton is not installed: there are no kernels")
SMALL = Call("small", 2, 2, 1, 8, 6, 2, 21)
PACKED = Call("packed", 2, 2, 1, 8, 4, 2, 21, lengths=(13, 8))
CASCADE = Call("cascade", 2, 2, 1, 8, 12, 3, 15, window=5)
CPU = torch.device("cpu")


def test_the_calls_launch_all_seven_kernels():
    assert len(KERNELS) == 7
    assert kernels_of(CALLS) == kernels_of(SMALL_CALLS) == KERNELS
    for calls in (CALLS, SMALL_CALLS):
        assert kernels_of(call for call in calls if call.name in preflight.CHECKED) == KERNELS


# the torch path stands in for the kernels: what is tested is what differences are seen


@pytest.fixture
def results(monkeypatch):
    """Call.results with impl="triton" computed by the torch path, and what a test does to it."""
    real = Call.results
    spoil = {}

    def computed(self, tensors, impl):
        found = real(self, tensors, "torch" if impl == "triton" else impl)
        return spoil["with"](self, impl, found) if spoil else found

    monkeypatch.setattr(Call, "results", computed)
    return spoil


@pytest.mark.parametrize("call", (SMALL, PACKED, CASCADE), ids=lambda call: call.name)
def test_equal_results_pass(results, call):
    error, twice, alone = bitwise.check(call, torch.float32, CPU)
    assert error <= bitwise.TOLERANCE[torch.float32]
    # torch's products may round otherwise for another batch: the kernels are what must not
    assert twice == []
    assert set(alone) <= {"out", "lse", "grad of query", "grad of key", "grad of value"}


@pytest.mark.parametrize("call", (SMALL, PACKED, CASCADE), ids=lambda call: call.name)
def test_an_image_is_compared_with_itself_alone(monkeypatch, call):
    # exact whatever the batch, so that any difference is one of places
    def local(self, tensors, impl):
        query, key, value, grad_out, grad_lse = tensors
        return query * 2, grad_lse * 3, grad_out + 1, key - 1, value * 4

    monkeypatch.setattr(Call, "results", local)
    assert bitwise.check(call, torch.float32, CPU)[2] == []

    def of_the_batch(self, tensors, impl):
        return *local(self, tensors, impl)[:4], tensors[2] * self.batch

    monkeypatch.setattr(Call, "results", of_the_batch)
    assert bitwise.check(call, torch.float32, CPU)[2] == ["grad of value"]


def test_the_last_bit_of_a_second_run_is_seen(results):
    runs = []

    def drifting(call, impl, found):
        runs.append(impl)
        if len(runs) == 2:
            found[3].view(-1)[-1] = torch.nextafter(found[3].view(-1)[-1], torch.tensor(9.0))
        return found

    results["with"] = drifting
    assert bitwise.check(SMALL, torch.float32, CPU)[1] == ["grad of key"]


def test_an_error_that_rounding_does_not_explain_fails(results, capsys, monkeypatch):
    monkeypatch.setattr(bitwise, "SMALL_CALLS", (SMALL, *SMALL_CALLS[:0]))
    monkeypatch.setattr(bitwise, "kernels_of", lambda calls: KERNELS)
    monkeypatch.setattr(bitwise, "_differs_alone", lambda *_: iter(()))
    assert bitwise.main(["--small", "--dtypes", "fp32"]) == 0
    # what TF32 would give in the place of fp32
    results["with"] = lambda call, impl, found: found if impl == "reference" else (*(t * (1 + 2e-4) for t in found),)
    assert bitwise.main(["--small", "--dtypes", "fp32"]) == 1
    assert "the error is over 1e-05" in capsys.readouterr().out
    monkeypatch.setattr(bitwise, "kernels_of", lambda calls: KERNELS - {"cascaded_forward"})
    results.clear()
    assert bitwise.main(["--small", "--dtypes", "fp32"]) == 1
    assert "not launched: cascaded_forward" in capsys.readouterr().out


@pytest.fixture(autouse=True)
def as_before():
    yield
    torch.use_deterministic_algorithms(False)


def test_a_result_that_is_not_finite_is_no_small_error():
    hole = torch.tensor([1.0, float("nan")])
    assert not worst_error((hole,), (torch.ones(2),)) <= 1


def test_a_missing_compiler_is_named(monkeypatch, capsys, tmp_path):
    assert preflight.compiler_fault() is None
    monkeypatch.setenv("CC", str(tmp_path / "no-such-compiler"))
    assert "no-such-compiler does not run" in preflight.compiler_fault()
    monkeypatch.delenv("CC")
    monkeypatch.setattr(preflight.shutil, "which", lambda name: None)
    assert preflight.main([]) == 1
    assert "no C compiler: install gcc" in capsys.readouterr().out


def test_a_missing_header_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(preflight.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    assert "-dev" in preflight.compiler_fault()


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    assert preflight.cache_fault() is None
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file"))
    assert "TRITON_CACHE_DIR" in preflight.cache_fault()


WANTED = """
import json, torch
from bench.gating import calls, warm_up
from bench.stub_driver import stub_driver
from pargo_kernels.triton_path import held
from tests.kernels.made.corners import CORNERS, results

ahead = {launch.variant for launch in warm_up.wanted(warm_up.SOURCES, "sm_90")}
missed = {}
with stub_driver(compiling=False):
    def run(name, work):
        before = set(held._compiled)
        work()
        missed[name] = sum(variant not in ahead for _, variant, _ in set(held._compiled) - before)

    for call in calls.CALLS:
        for dtype in calls.DTYPES.values():
            run(f"{call.name} {dtype}", lambda: call.results(call.tensors(dtype, "cpu"), "triton"))
    for name, corner in CORNERS.items():
        run(name, lambda: results(corner, corner.tensors("cpu"), impl="triton"))
    small = calls.Call("another head dimension", 1, 1, 1, 32, 4, 2, 8)
    run("control", lambda: small.results(small.tensors(torch.float16, "cpu"), "triton"))
print(json.dumps(missed))
"""


def test_what_is_compiled_ahead_is_what_is_launched():
    """On a driver that starts nothing: every kernel that the calls ask for is among those of the warm-up."""
    done = subprocess.run([sys.executable, "-c", WANTED], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    missed = json.loads(done.stdout.splitlines()[-1])
    assert missed.pop("control") > 0
    # a tensor with one column begins in the middle of a vector: what its launches want differs with its place in memory
    missed.pop("a head dimension of 1")
    assert len(missed) > 30
    assert {name: count for name, count in missed.items() if count} == {}


def test_a_kernel_that_does_not_compile_fails_the_warm_up(tmp_path):
    module = tmp_path / "broken_launches.py"
    module.write_text(
        "from bench.gating.calls import SMALL_CALLS\nimport torch\n"
        "def launches(arch):\n"
        "    for launch in SMALL_CALLS[2].launches(torch.float16, arch):\n"
        "        yield launch._replace(num_warps=3)\n"
    )
    command = [sys.executable, "-m", "bench.gating.warm_up", "--arch", "sm_90", "--processes", "1", "--of", "broken_launches"]
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 1
    assert "3 of 3 compiled" in done.stdout
    assert "3 of them failed" in done.stdout
