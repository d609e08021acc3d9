"""Is everything there that the rest of the gate needs: a compiler, Python.h, seven kernels that launch, known clocks?

python -m bench.gating.preflight
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import torch

from bench.contest.clocks import clocks
from bench.contest.timing import copy_bandwidth, meter_for
from bench.gating.calls import CALLS, DTYPES, KERNELS, SMALL_CALLS, kernels_of, worst_error
from pargo_kernels import env_report
from pargo_kernels.dispatch import interpreting

CHECKED = ("several chunks", "cascade")
# a kernel that launched and is right, not one that is precise: that is asked later
MAX_ERROR = 0.1


def compiler_fault() -> str | None:
    """What keeps a C program that includes Python.h from being built here, or None: Triton builds its launchers so."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return "no C compiler: install gcc, or name one in CC (Triton builds its launchers with it)"
    include = Path(sysconfig.get_paths()["include"])
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "launcher.c"
        source.write_text("#include <Python.h>\nint answer(void) { return PY_MAJOR_VERSION; }\n")
        build = [compiler, str(source), "-shared", "-fPIC", f"-I{include}", "-o", str(source.with_suffix(".so"))]
        try:
            done = subprocess.run(build, capture_output=True, text=True, timeout=15)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{compiler} does not run: {error}"
    if done.returncode:
        return (
            f"{compiler} cannot build a program that includes Python.h, which Triton's launchers do: install python"
            f"{sys.version_info.major}.{sys.version_info.minor}-dev.\n{done.stderr.strip()[-500:]}"
        )
    return None


def cache_fault() -> str | None:
    """Why compiled kernels cannot be kept, or None."""
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"Triton's cache {folder} cannot be written ({error}): name another folder in TRITON_CACHE_DIR"


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gating.preflight", description=__doc__.split("\n", 1)[0])
    parser.parse_args(argv)
    for fault in (compiler_fault(), cache_fault()):
        if fault:
            print(fault)
            return 1
    env_report.main()
    on_cuda = torch.cuda.is_available()
    device, dtype = (torch.device("cuda"), "bf16") if on_cuda else (torch.device("cpu"), "fp16")
    if not on_cuda and not interpreting():
        print("torch sees no CUDA device here: the kernels cannot be launched (TRITON_INTERPRET=1 interprets them)")
        return 1
    calls = [call for call in (CALLS if on_cuda else SMALL_CALLS) if call.name in CHECKED]
    fine = kernels_of(calls) == KERNELS
    for call in calls:
        begin = time.perf_counter()
        tensors = call.tensors(DTYPES[dtype], device)
        found = call.results(tensors, "triton")
        if on_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        error = worst_error(found, call.results(tensors, "reference"))
        print(f"{call.name}, {dtype}: launched after {seconds:.1f} s, relative error {error:.1e}", flush=True)
        fine = fine and error <= MAX_ERROR
    print(f"{len(kernels_of(calls))} of {len(KERNELS)} kernels launched once")
    print(f"copy {copy_bandwidth(device, meter_for(device)) / 1e9:.1f} GB/s, clocks {clocks(device)}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
