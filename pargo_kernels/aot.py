"""Compile every kernel of the launch table without a GPU and print what each costs.

    python -m pargo_kernels.aot --arch sm_80 sm_90 sm_100 gfx942

Exit status 1 if a kernel fails to compile, spills registers, wants more shared memory than a program may have, or moves rows
of 16-bit elements less than 16 bytes at a time where their strides allow it. What cannot be otherwise is named with its reason.
Compiled kernels stay in Triton's cache, where launches on such a GPU find them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from pargo_kernels.dispatch import TRITON_INSTALLED, interpreting

COLUMNS = "{:<24} {:<7} {:<5} {:>4} {:>6} {:>7} {:>5} {:>6} {:<18} {:>5} {:>7} {:>12} {:>5} {:>9}  {}"
HEADER = COLUMNS.format(
    "kernel", "arch", "dtype", "dim", "slice", "block", "warps", "stages", "call", "regs", "spill B",
    "shared/limit", "mma", "wide", "verdict",
)  # fmt: skip


class Report(NamedTuple):
    """What one compilation showed."""

    line: str
    passed: bool
    excused: bool = False


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pargo_kernels.aot", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--arch", nargs="+", default=["sm_80", "sm_90", "sm_100", "gfx942"], metavar="ARCH")
    parser.add_argument("--kernel", nargs="+", metavar="NAME", help="only these kernels (default: all)")
    parser.add_argument("--sample", type=int, metavar="N", help="only N compilations, spread over the table")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    options = parser.parse_args(arguments)
    if not TRITON_INSTALLED:
        parser.error("triton is not installed: pip install triton")
    if interpreting():
        parser.error("TRITON_INTERPRET=1 is set, and an interpreted kernel cannot be compiled: unset it")
    if options.sample is not None and options.sample < 1:
        parser.error(f"--sample {options.sample} must be at least 1")
    from pargo_kernels.triton_path.compile_ahead import TARGETS
    from pargo_kernels.triton_path.launch_table import entries

    unknown = sorted(set(options.arch) - set(TARGETS))
    if unknown:
        parser.error(f"--arch {' '.join(unknown)} is unknown: use {', '.join(TARGETS)}")
    names = {entry.kernel for entry in entries()}
    if options.kernel and not set(options.kernel) <= names:
        parser.error(f"--kernel {' '.join(options.kernel)} is unknown: use {', '.join(sorted(names))}")

    wanted = jobs(options.arch, options.kernel, options.sample)
    print(HEADER)
    passed = total = excused = 0
    for report in run(wanted, options.jobs):
        print(report.line, flush=True)
        passed, total, excused = passed + report.passed, total + 1, excused + report.excused
    named = f"; {excused} of them spill for the reason named" if excused else ""
    print(f"{passed} of {total} kernels pass: compiled, no spill, shared memory inside the chip, rows moved whole{named}")
    return 0 if passed == total else 1


def jobs(archs: Iterable[str], kernels: Iterable[str] | None = None, sample: int | None = None) -> list[tuple[int, int]]:
    """(line of the table, case of the line) of every compilation, or of ``sample`` evenly spread ones."""
    from pargo_kernels.triton_path.launch_table import entries
    from pargo_kernels.triton_path.table_cases import cases

    everything = [
        (line, case)
        for line, entry in enumerate(entries())
        if entry.arch in archs and (not kernels or entry.kernel in kernels)
        for case in range(sum(1 for _ in cases(entry)))
    ]
    if sample is None or sample >= len(everything):
        return everything
    return [everything[i * len(everything) // sample] for i in range(sample)]


def run(wanted: list[tuple[int, int]], processes: int | None) -> Iterator[Report]:
    """Compile in parallel, report in order."""
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(compile_case, wanted)


def compile_case(job: tuple[int, int]) -> Report:
    """Compile one case of one line of the table."""
    from pargo_kernels.triton_path.compile_ahead import TARGETS, compile_launch
    from pargo_kernels.triton_path.inspect_binary import inspect_binary
    from pargo_kernels.triton_path.launch_table import entries
    from pargo_kernels.triton_path.table_cases import cases

    line, number = job
    entry = entries()[line]
    case = list(cases(entry))[number]
    limit = TARGETS[entry.arch].shared_limit
    described = (
        entry.kernel,
        entry.arch,
        {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[str(case.dtype).removeprefix("torch.")],
        case.head_dim,
        "-" if entry.kernel.startswith("cascaded") else f">={entry.slice_from}",
        f"{entry.block}x{entry.block_n}",
        entry.num_warps,
        entry.num_stages,
        case.variant.name,
    )
    try:
        cost = inspect_binary(compile_launch(case.launch, entry.arch))
    except Exception as error:
        message = (str(error).strip() or repr(error)).splitlines()[-1]
        return Report(COLUMNS.format(*described, "-", "-", "-", "-", "-", f"FAILED {type(error).__name__}: {message}"), False)
    faults = []
    excused = cost.spilled_bytes > 0 and case.excuse is not None
    if cost.spilled_bytes and not excused:
        faults.append("SPILLS")
    # what is left is vectors: lse, delta, offsets
    if case.rows_are_wide and 2 * cost.wide_accesses < cost.global_accesses:
        faults.append("ROWS MOVED IN PIECES")
    if cost.shared_bytes > limit:
        faults.append("TOO MUCH SHARED MEMORY")
    figures = (
        cost.registers,
        cost.spilled_bytes,
        f"{cost.shared_bytes / 1024:.0f}/{limit // 1024}K",
        cost.matrix_instructions,
        f"{cost.wide_accesses}/{cost.global_accesses}",
        ", ".join(faults) or (f"spills: {case.excuse}" if excused else "ok"),
    )
    return Report(COLUMNS.format(*described, *figures), not faults, excused)


if __name__ == "__main__":
    sys.exit(main())
