"""Where the ops run. The same tests cover every backend: a backend is a parameter, never a copy of a test."""

from typing import NamedTuple

import pytest
import torch

from pargo_kernels.c_path import library
from pargo_kernels.dispatch import interpreting

# fixtures, for all tests here
from tests.kernels.made.c_libraries import cache, logged, stub  # noqa: F401


class Backend(NamedTuple):
    impl: str
    device: str

    @property
    def dtypes(self):
        """Floating dtypes it computes."""
        if self.impl == "c":
            return tuple(dtype for dtype in library.DTYPES if library.why_not(dtype) is None)
        return (torch.float32, torch.float16, torch.bfloat16) + ((torch.float64,) if self.impl == "torch" else ())


def _backends():
    if interpreting():
        return [pytest.param(Backend("triton", "cpu"), id="triton-interpreted")]
    no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: this did not run on a GPU")
    return [
        pytest.param(Backend("torch", "cpu"), id="torch-cpu"),
        pytest.param(Backend("c", "cpu"), id="c-cpu"),
        pytest.param(Backend("torch", "cuda"), id="torch-cuda", marks=no_gpu),
        pytest.param(Backend("triton", "cuda"), id="triton-cuda", marks=no_gpu),
    ]


@pytest.fixture(params=_backends(), scope="session")
def backend(request):
    if request.param.impl == "c":
        reason = library.why_not(torch.float32)
        if reason is not None:
            pytest.skip(f"the C kernels did not run: {reason}")
    return request.param


@pytest.fixture(params=[param for param in _backends() if param.values[0].impl == "triton"], scope="session")
def kernels(request):
    """The backends that run the Triton kernels."""
    return request.param


def pytest_configure(config):
    if interpreting():
        from tests.kernels.bf16_interpreter import repair

        repair()


def pytest_collection_modifyitems(config, items):
    # tests without a backend run in the other process
    if interpreting():
        kept = [item for item in items if {"backend", "kernels"} & set(item.fixturenames)]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Whatever torch allocates without a value holds NaN: an output that a kernel forgets to write cannot pass."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
