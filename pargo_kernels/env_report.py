"""Print what a bug report needs.

python -m pargo_kernels.env_report
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

import pargo_kernels
from pargo_kernels.c_path.compiler import Unavailable
from pargo_kernels.c_path.library import library, why_not
from pargo_kernels.dispatch import TRITON_INSTALLED, resolve_impl
from pargo_kernels.triton_path import measured_lines

PACKAGES = ("torch", "triton", "transformers", "peft", "accelerate", "safetensors", "numpy", "flash-attn", "natten")
VARIABLES = ("TRITON_", "TORCH_", "PYTORCH_", "CUDA_", "CC", "XDG_CACHE_HOME", "OMP_NUM_THREADS", "HIP_")


def report() -> Iterator[tuple[str, str]]:
    """(what, value) pairs: versions, devices, which implementation "auto" chooses where, and relevant variables.

    Compiles the C kernels where a first call would.
    """
    yield "pargo", f"{pargo_kernels.__version__} ({Path(pargo_kernels.__file__).parent})"
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "platform", f"{platform.platform()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
    for package in PACKAGES:
        yield package, _version(package)
    yield "torch built for", f"CUDA {torch.version.cuda}, HIP {torch.version.hip}"
    yield "triton importable", str(TRITON_INSTALLED)
    yield "launch table", measured_lines.summary()
    yield "C kernels", _c_kernels()
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield (
            f"cuda:{index}",
            f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
            f"{properties.total_memory / 2**30:.0f} GiB, {properties.multi_processor_count} multiprocessors",
        )
    for device in ("cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))):
        for dtype in (torch.bfloat16, torch.float32, torch.float64):
            name = str(dtype).removeprefix("torch.")
            yield f"auto on {device}, {name}", _choice(torch.empty(0, dtype=dtype, device=device))
    for name, value in sorted(os.environ.items()):
        if name.startswith(VARIABLES):
            yield name, value


def _c_kernels() -> str:
    try:
        found = library()
    except Unavailable as reason:
        return f"none: {reason}"
    when = "compiled before" if found.seconds is None else f"compiled now in {found.seconds:.1f} s"
    return f"{when} by {found.compiler.version()}, {found.file or 'kept by no file'}"


def _choice(tensor: torch.Tensor) -> str:
    impl = resolve_impl("auto", tensor)
    if impl != "cpu":
        return impl
    return "c" if why_not(tensor.dtype) is None else "torch, without the C kernels"


def _version(package: str) -> str:
    if package == "torch":
        # with what it was built for, which a package's metadata may leave out
        return torch.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main() -> None:
    """Command line."""
    pairs = list(report())
    width = max(len(what) for what, _ in pairs)
    for what, value in pairs:
        print(f"{what:<{width}}  {value}")


if __name__ == "__main__":
    main()
