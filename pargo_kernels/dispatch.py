"""Which implementation runs: ``impl`` chooses how, never what."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os

import torch

MIN_CAPABILITY = (8, 0)
# of the C path, whichever compiler made it
C_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def interpreting() -> bool:
    """True where Triton interprets kernels on the CPU (``TRITON_INTERPRET=1``)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


# looked up, not imported: triton is imported only when a kernel is wanted
TRITON_INSTALLED = importlib.util.find_spec("triton") is not None


@functools.cache
def _capable(device_index: int | None) -> bool:
    return torch.version.hip is not None or torch.cuda.get_device_capability(device_index) >= MIN_CAPABILITY


def _why_not_triton(query: torch.Tensor) -> str | None:
    if query.dtype == torch.float64:
        return "query is float64, which the kernels do not compute"
    if not TRITON_INSTALLED:
        return "triton is not installed (pip install triton)"
    if query.is_cuda:
        return None if _capable(query.device.index) else f"{query.device} has a compute capability below 8.0"
    if query.device.type == "cpu" and interpreting():
        return None
    return f"query is on {query.device}; kernels run on CUDA or HIP devices (on the CPU only with TRITON_INTERPRET=1)"


def _why_not_c(tensor: torch.Tensor) -> str | None:
    # whether there is a compiler is found out when the op runs: here a graph may be traced
    if tensor.dtype not in C_DTYPES:
        return f"query is {str(tensor.dtype).removeprefix('torch.')}, which the C kernels do not compute"
    return None if tensor.is_cpu else f"query is on {tensor.device}; the C kernels run on a CPU"


def resolve_impl(impl: str, query: torch.Tensor) -> str:
    """Turn ``impl`` into what the registered ops take: "triton", "c", "cpu", "torch"; or into "reference".

    "auto" is "triton" on CUDA/HIP tensors of capability >= 8.0 and a dtype other than fp64, "cpu" on CPU tensors other than
    fp64, "torch" elsewhere. What "cpu" is, :func:`cpu_impl` says when the op runs: a traced graph runs anywhere.

    Raises:
        ValueError: if "triton" or "c" is asked for where it cannot run. They never fall back silently.
    """
    if impl == "auto":
        if query.is_cuda and _why_not_triton(query) is None:
            return "triton"
        return "cpu" if _why_not_c(query) is None else "torch"
    why_not = _why_not_triton(query) if impl == "triton" else _why_not_c(query) if impl == "c" else None
    if why_not is not None:
        raise ValueError(f"impl={impl!r} cannot run: {why_not}. Use impl='torch', or impl='auto' to choose by device.")
    return impl


def cpu_impl(tensor: torch.Tensor) -> str:
    """What "cpu" is for a call: "c" where the C kernels can be had, "torch" where not, which is said once."""
    if _why_not_c(tensor) is not None:
        # an exported program went to another device
        return "torch"
    why_not = _why_no_library(tensor.dtype)
    if why_not is None:
        return "c"
    _say_once(f"impl='auto' computes by the torch path on this CPU, which takes several times as long: {why_not}.")
    return "torch"


@functools.cache
def _why_no_library(dtype: torch.dtype) -> str | None:
    # imported when a CPU is to compute: nothing of it is needed elsewhere
    from pargo_kernels.c_path.library import why_not

    return why_not(dtype)


@functools.cache
def _say_once(message: str) -> None:
    logging.getLogger("pargo_kernels").warning(message)


def autocast_inputs(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Under ``torch.autocast``, cast floating tensors other than fp64 to its dtype, as torch does for SDPA.

    Comes before any check: what is not a tensor passes through.
    """
    if not torch._C._is_any_autocast_enabled() or not isinstance(inputs[0], torch.Tensor):
        return inputs
    device_type = inputs[0].device.type
    # autocast does not know meta tensors
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return inputs
    if not all(isinstance(t, torch.Tensor) for t in inputs):
        return inputs
    dtype = torch.get_autocast_dtype(device_type)
    castable = (torch.float16, torch.bfloat16, torch.float32)
    return tuple(t.to(dtype) if t.dtype in castable else t for t in inputs)
