"""A driver for Triton on a machine without a GPU: kernels are compiled for one, and starting them does nothing.

What remains of a call is what it costs the host, and which kernels it wants. Tensors are on the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from pargo_kernels import dispatch
from pargo_kernels.triton_path import held


class _Utils:
    def get_device_properties(self, _device: int) -> dict[str, int]:
        return {"max_shared_mem": 227 * 1024, "multiprocessor_count": 132}

    def load_binary(self, *_args) -> tuple[int, int, int, int, int]:
        module, function, registers, spills, max_threads = 1, 1, 0, 0, 1024
        return module, function, registers, spills, max_threads


class _Launcher:
    def __init__(self, _source, _metadata):
        pass

    def __call__(self, *_args) -> None:
        pass


class StubDriver:
    """What the host asks of a driver, answered for an H100."""

    utils = _Utils()
    launcher_cls = _Launcher

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


def _no_reason(_query) -> None:
    """Why the kernels cannot run here: nothing keeps them from it."""


@contextlib.contextmanager
def stub_driver(*, compiling: bool = True) -> Iterator[list[str]]:
    """Let the kernels take CPU tensors and start nothing; gives the names of the kernels that are compiled meanwhile.

    Without ``compiling`` they are only counted.
    """
    wanted: list[str] = []
    compiler = triton.compile

    def compile(source, target, options):
        wanted.append(source.name)
        if compiling:
            return compiler(source, target=target, options=options)
        return SimpleNamespace(run=_Launcher(None, None), function=1, packed_metadata=())

    before = driver._active
    driver.set_active(StubDriver())
    held.forget()
    try:
        with mock.patch.object(triton, "compile", compile), mock.patch.object(dispatch, "_why_not_triton", _no_reason):
            yield wanted
    finally:
        held.forget()
        driver._active = before
