"""The benchmarks are no part of the package: tests import them from the repository's root."""

import sys

import pytest
import torch

from tests.bench.made.places import ROOT

sys.path.insert(0, str(ROOT))


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny problems gain nothing from threads, and threads of several test processes wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def setting():
    """A setting whose rounds are as few as can be, on the CPU in fp32."""
    from bench.contest.engine import Setting
    from bench.contest.provider import Place
    from bench.contest.timing import CpuMeter

    return Setting(
        suite="test",
        place=Place(torch.device("cpu"), torch.float32),
        dtype="fp32",
        layout="bhnd",
        seed=0,
        meter=CpuMeter(),
        seconds=0.0,
        copy_bytes_per_s=1e10,
        matmul_flops_per_s=1e11,
    )


@pytest.fixture
def bench_script():
    """The benchmark's script, to be run as a user runs it."""
    return ROOT / "bench" / "run.py"
