"""Compiling a planned launch for an architecture that need not be here."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend
from triton.runtime.jit import native_specialize_impl

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
    """Compile a launch as the just-in-time compiler would, specialised on its arguments (tensors may be on "meta").

    Raises:
        Exception: whatever the compiler raises.
    """
    gpu = TARGETS[arch].gpu
    backend = type(make_backend(gpu))
    signature: dict[str, Any] = {}
    constants: dict[tuple, Any] = {}
    attributes: dict[tuple, Any] = {}
    parameters = launch.kernel.params
    values = [*launch.args, *(launch.constants[p.name] for p in parameters[len(launch.args) :])]
    for position, (parameter, value) in enumerate(zip(parameters, values, strict=True)):
        if parameter.is_constexpr:
            signature[parameter.name] = "constexpr"
            constants[(position,)] = value
            continue
        kind, key = native_specialize_impl(backend, value, parameter.is_const, not parameter.do_not_specialize, True)
        signature[parameter.name] = kind
        _specialise(kind, key, value, (position,), constants, attributes)
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    return triton.compile(source, target=gpu, options=options)


def _specialise(kind, key, value, path, constants, attributes) -> None:
    if isinstance(kind, tuple):
        for position, parts in enumerate(zip(kind, key, value, strict=True)):
            _specialise(*parts, (*path, position), constants, attributes)
    elif kind == "constexpr":
        constants[path] = value
    elif isinstance(key, str) and "D" in key:
        attributes[path] = [["tt.divisibility", 16]]
