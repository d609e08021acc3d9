"""The clocks of a GPU, read and never set: a time means little beside another taken at another clock."""

from __future__ import annotations

import ctypes
import subprocess

import torch

UNKNOWN = "unknown"
# nvmlClockType_t
_SM, _MEMORY = 1, 2


def clocks(device: torch.device) -> str:
    """The clocks of the SMs and of the memory at this moment, ``"SM 1980 MHz, memory 2619 MHz"``; "unknown" where unreadable.

    An idle GPU clocks down: ask right after work.
    """
    if device.type != "cuda" or torch.version.hip is not None:
        return UNKNOWN
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    if uuid is None:
        return UNKNOWN
    name = f"GPU-{uuid}"
    found = _by_library(name) or _by_program(name)
    return UNKNOWN if found is None else f"SM {found[0]} MHz, memory {found[1]} MHz"


def _by_library(name: str) -> tuple[int, int] | None:
    # the driver's library answers in microseconds, its program in up to a second
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if library.nvmlInit_v2() != 0:
        return None
    handle = ctypes.c_void_p()
    if library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle)) != 0:
        return None
    megahertz = []
    for kind in (_SM, _MEMORY):
        value = ctypes.c_uint()
        if library.nvmlDeviceGetClockInfo(handle, kind, ctypes.byref(value)) != 0:
            return None
        megahertz.append(value.value)
    return megahertz[0], megahertz[1]


def _by_program(name: str) -> tuple[int, int] | None:
    query = ["nvidia-smi", "--id", name, "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
        sm, memory = done.stdout.strip().split(",")
        return int(sm), int(memory)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
