"""Write the launch table: for every line, the first of its candidates that compiles without a spill.

    python -m pargo_kernels.tune --arch sm_90

The candidates stand in the order of our expectation; without a GPU nothing is timed, and the table says nothing about
speed. Prints the lines that changed.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product

import torch

from pargo_kernels.triton_path import launch_table
from pargo_kernels.triton_path.compile_ahead import TARGETS, compile_launch
from pargo_kernels.triton_path.inspect_binary import spills
from pargo_kernels.triton_path.launch_table import Entry
from pargo_kernels.triton_path.table_cases import FULL, cases

KERNELS = (
    "partial_global_forward",
    "partial_global_backward",
    "merge_chunk_outputs",
    "merge_chunk_gradients",
    "cascaded_forward",
    "cascaded_query_backward",
    "cascaded_key_backward",
)
BLOCK_DIMS = (64, 128, 256)
SLICES = (1, 2, 4)
# (block_n, num_warps, num_stages)
TILES_16 = (
    (64, 4, 2), (32, 4, 2), (64, 8, 2), (32, 8, 2), (32, 4, 1), (32, 8, 1), (16, 4, 2), (16, 4, 1), (16, 8, 2), (16, 8, 1),
)  # fmt: skip
TILES_32 = ((32, 4, 1), (16, 4, 1), (16, 8, 1))
GLOBAL_ROWS = (64, 32, 16)
# (block_m, block_n, num_warps, num_stages)
BANDS_16 = (
    (64, 64, 4, 2), (64, 32, 4, 2), (64, 32, 8, 2), (32, 64, 4, 2), (32, 32, 4, 2), (32, 32, 4, 1), (32, 32, 8, 1),
    (16, 16, 4, 1),
)  # fmt: skip
BANDS_32 = ((32, 16, 4, 1), (16, 32, 4, 1), (16, 16, 4, 1), (16, 16, 8, 1), (16, 16, 2, 1))
MERGES = ((32, 4, 1), (16, 4, 1))


def candidates(kernel: str, arch: str, bits: int, block_dim: int, slice_from: int, long: bool) -> list[Entry]:
    """Candidates of a line, the most promising first."""
    if kernel.startswith("merge"):
        return [Entry(kernel, arch, bits, block_dim, 1, False, n, 0, w, s) for n, w, s in MERGES]
    if kernel.startswith("cascaded"):
        bands = BANDS_16 if bits == 16 else BANDS_32
        return [Entry(kernel, arch, bits, block_dim, 1, False, n, m, w, s) for m, n, w, s in bands]
    tiles = TILES_16 if bits == 16 else TILES_32
    return [Entry(kernel, arch, bits, block_dim, slice_from, long, n, g, w, s) for (n, w, s), g in product(tiles, GLOBAL_ROWS)]


def line_of(entry: Entry) -> tuple[str, str, int, int]:
    """(kernel, architecture, width, head dimension): what :func:`choose` decides at a time."""
    return entry[:4]


def passes(entry: Entry) -> bool:
    """Every case of the entry compiles, without a spill, inside the shared memory."""
    limit = TARGETS[entry.arch].shared_limit
    with launch_table.using((entry, *_others(entry))):
        # the full calls fail first, if any does; fp16 compiles as bf16 does
        for case in sorted(cases(entry), key=lambda case: case.variant != FULL):
            if case.dtype == torch.float16:
                continue
            try:
                compiled = compile_launch(case.launch, entry.arch)
            except Exception:
                return False
            if spills(compiled) or compiled.metadata.shared > limit:
                return False
    return True


def choose(line: tuple[str, str, int, int]) -> list[Entry]:
    """The entries of one kernel, architecture, width and head dimension."""
    kernel = line[0]
    if not kernel.startswith("partial_global"):
        return [_first(candidates(*line, 1, False))]
    chosen = [_first(candidates(*line, slice_from, False)) for slice_from in SLICES]
    # slices of a tile of the last line or more are long
    return [*chosen, _first(candidates(*line, chosen[-1].block_n, True))]


def _first(options: list[Entry]) -> Entry:
    for entry in options:
        if passes(entry):
            return entry
    raise RuntimeError(f"no candidate of {options[0]} compiles without a spill")


def _others(entry: Entry) -> tuple[Entry, ...]:
    # launches that the case makes beside the one under test: any parameters will do
    names = ("merge_chunk_outputs", "merge_chunk_gradients", "cascaded_query_backward", "cascaded_key_backward")
    return tuple(
        entry._replace(kernel=name, slice_from=1, long=False, block=16, block_n=16) for name in names if name != entry.kernel
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pargo_kernels.tune", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--arch", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--kernel", nargs="+", default=KERNELS, choices=KERNELS, metavar="NAME")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    before = set(launch_table.entries()) if launch_table.TABLE.exists() else set()
    table: dict[tuple, list[Entry]] = {line_of(entry): [] for entry in before}
    for entry in before:
        table[line_of(entry)].append(entry)
    lines = list(product(options.kernel, options.arch, (16, 32), BLOCK_DIMS))
    with ProcessPoolExecutor(options.jobs) as pool:
        for number, (line, chosen) in enumerate(zip(lines, pool.map(choose, lines), strict=True), 1):
            table[line] = chosen
            launch_table.write([entry for entries in table.values() for entry in entries])
            for entry in chosen:
                if entry not in before:
                    print(f"[{number}/{len(lines)}] {entry}", flush=True)
    written = {entry for entries in table.values() for entry in entries}
    print(f"{len(written - before)} lines changed, {len(written)} in all: {launch_table.TABLE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
