"""Compile what the gate will launch, in many processes, into the cache in which the launches look.

    python -m bench.gating.warm_up --arch sm_90 --processes 16 --seconds 50

What did not fit into the seconds is compiled when it is launched. Exit status 1 if a kernel does not compile.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, TimeoutError, as_completed

import triton
from triton.backends.nvidia import driver

from pargo_kernels.triton_path.compile_ahead import TARGETS, compile_launch
from pargo_kernels.triton_path.launch import Launch

SOURCES = ("bench.gating.calls", "tests.kernels.made.corner_launches")


@functools.cache
def wanted(sources: tuple[str, ...], arch: str) -> list[Launch]:
    """A launch for each kernel that the launches of the sources need, in their order."""
    variants: dict[tuple, Launch] = {}
    for source in sources:
        for launch in importlib.import_module(source).launches(arch):
            variants.setdefault(launch.variant, launch)
    return list(variants.values())


def compile_one(sources: tuple[str, ...], arch: str, index: int) -> str | None:
    """Compile one of the wanted launches; returns what went wrong, or None."""
    launch = wanted(sources, arch)[index]
    try:
        compiled = compile_launch(launch, arch)
        # before Triton 3.7 each signature has a launcher in C: seconds that would be spent one after another
        if hasattr(driver, "make_launcher") and TARGETS[arch].gpu.backend == "cuda" and os.path.exists("/dev/nvidiactl"):
            driver.CudaLauncher(compiled.src, compiled.metadata)
    except Exception as error:
        return f"{launch.kernel.__name__} {launch.constants}: {type(error).__name__}: {error}"
    return None


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    begin = time.perf_counter()
    parser = argparse.ArgumentParser(prog="python -m bench.gating.warm_up", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--arch", required=True, choices=TARGETS)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, help="begin no compilation after so many; default: no limit")
    parser.add_argument("--sample", type=int, metavar="N", help="only N, spread over all")
    parser.add_argument("--of", nargs="+", default=SOURCES, metavar="MODULE", help="whose launches(arch) are compiled")
    args = parser.parse_args(argv)
    sources = tuple(args.of)
    # before the processes are forked, which then have it too
    count = len(wanted(sources, args.arch))
    chosen = range(count) if args.sample is None else [number * count // args.sample for number in range(args.sample)]
    print(f"{count} kernels for {args.arch}, triton {triton.__version__}, {args.processes} processes", flush=True)
    faults, done = [], 0
    with ProcessPoolExecutor(args.processes) as pool:
        futures = [pool.submit(compile_one, sources, args.arch, index) for index in chosen]
        # a machine's list of fonts takes seconds, once: not those of a timed part
        with contextlib.suppress(ImportError):
            importlib.import_module("matplotlib.font_manager")
        left = None if args.seconds is None else max(1.0, args.seconds - (time.perf_counter() - begin))
        try:
            for future in as_completed(futures, timeout=left):
                done += 1
                if fault := future.result():
                    faults.append(fault)
        except TimeoutError:
            pool.shutdown(wait=False, cancel_futures=True)
    print(*faults, sep="\n")
    print(f"{done} of {len(futures)} compiled in {time.perf_counter() - begin:.0f} s, {len(faults)} of them failed")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
