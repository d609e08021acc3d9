"""Which implementation runs: ``impl`` chooses how, never what."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

MIN_CAPABILITY = (8, 0)


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


def resolve_impl(impl: str, query: torch.Tensor) -> str:
    """Turn ``impl`` into "triton", "torch" or "reference".

    "auto" is "triton" on CUDA/HIP tensors of capability >= 8.0 and a dtype other than fp64, "torch" elsewhere.

    Raises:
        ValueError: if "triton" is asked for where it cannot run. It never falls back silently.
    """
    if impl == "auto":
        return "triton" if query.is_cuda and _why_not_triton(query) is None else "torch"
    if impl == "triton":
        why_not = _why_not_triton(query)
        if why_not is not None:
            raise ValueError(f"impl='triton' cannot run: {why_not}. Use impl='torch', or impl='auto' to choose by device.")
    return impl


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
