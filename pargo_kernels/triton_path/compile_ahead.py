"""Compiling a planned launch for an architecture that need not be here."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget

from pargo_kernels.triton_path.launch import Launch


class Target(NamedTuple):
    """What Triton compiles for, and the shared memory a program may use, bytes."""

    gpu: GPUTarget
    shared_limit: int


# the sm_80 lines of the launch table also serve 8.6, 8.9 and 12.0, whose programs have 99 KiB
TARGETS = {
    "sm_80": Target(GPUTarget("cuda", 80, 32), 99 * 1024),
    "sm_90": Target(GPUTarget("cuda", 90, 32), 227 * 1024),
    "sm_100": Target(GPUTarget("cuda", 100, 32), 227 * 1024),
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), 64 * 1024),
}


def compile_launch(launch: Launch, arch: str) -> Any:
    """Compile a launch (its tensors may be on "meta") into the cache in which launches on such a device look.

    Raises:
        Exception: whatever the compiler raises.
    """
    target = TARGETS[arch].gpu
    return triton.compile(launch.source(target.backend), target=target, options=launch.options)
