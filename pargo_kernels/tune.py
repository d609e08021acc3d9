"""Write the launch table: for every line the fastest of its first candidates that compile without a spill.

    python -m pargo_kernels.tune --measure       on a GPU, the lines of its architecture
    python -m pargo_kernels.tune --arch sm_90    without one: the first candidate that compiles
    python -m pargo_kernels.tune --arch sm_90 --keep    lines that pass stay: for another version of Triton
    python -m pargo_kernels.tune --flagship tuned.json --seconds 50    on a GPU: the lines that matter most, on their shapes
    python -m pargo_kernels.tune --adopt tuned.json                    what that chose, into the table

The candidates stand in the order of our expectation; without ``--measure`` the table says nothing about speed. Prints the lines
that changed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
import triton

from pargo_kernels import tune_flagship
from pargo_kernels.dispatch import interpreting
from pargo_kernels.triton_path import launch_table
from pargo_kernels.triton_path.compile_ahead import TARGETS, compile_launch
from pargo_kernels.triton_path.held import run
from pargo_kernels.triton_path.inspect_binary import spills
from pargo_kernels.triton_path.launch_table import Entry
from pargo_kernels.triton_path.table_cases import FULL, PLAIN, cases

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
            if (spills(compiled) and not case.excuse) or compiled.metadata.shared > limit:
                return False
    return True


class Slot(NamedTuple):
    """What one line of the table is for."""

    kernel: str
    arch: str
    bits: int
    block_dim: int
    slice_from: int
    long: bool

    @classmethod
    def of(cls, entry: Entry) -> Slot:
        """The slot that an entry fills."""
        return cls(*entry[:6])


def passing(slot: Slot, present: Entry | None, count: int) -> list[Entry]:
    """The first ``count`` entries that pass: the ``present`` one, where it is to stay, then the candidates."""
    found: list[Entry] = []
    for entry in [*([present] if present else []), *candidates(*slot)]:
        if entry not in found and passes(entry):
            found.append(entry)
            if len(found) == count:
                break
    if not found:
        raise RuntimeError(f"no candidate of {slot} compiles without a spill")
    return found


def seconds(entry: Entry) -> float:
    """Time of the entry's plain launches on this machine's GPU."""
    total = 0.0
    with launch_table.using((entry, *_others(entry))):
        for case in cases(entry, "cuda"):
            if case.variant == PLAIN and case.dtype != torch.float16:
                total += triton.testing.do_bench(partial(run, [case.launch], torch.device("cuda"))) / 1e3
    return total


def fastest(entries: Sequence[Entry], clock: Callable[[Entry], float] = seconds) -> Entry:
    """The entry with the least time, with what each takes printed."""
    times = [clock(entry) for entry in entries]
    best = min(range(len(entries)), key=times.__getitem__)
    for index, (entry, taken) in enumerate(zip(entries, times, strict=True)):
        print(f"  {taken * 1e6:9.1f} us {'*' if index == best else ' '} {entry}", flush=True)
    return entries[best]


def _others(entry: Entry) -> tuple[Entry, ...]:
    # launches that the case makes beside the one under test: any parameters will do
    return tuple(
        entry._replace(kernel=name, slice_from=1, long=False, block=16, block_n=16) for name in KERNELS if name != entry.kernel
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pargo_kernels.tune", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--arch", nargs="+", choices=list(TARGETS), help="the architectures whose lines to write without a GPU")
    parser.add_argument("--kernel", nargs="+", default=KERNELS, choices=KERNELS, metavar="NAME")
    parser.add_argument("--keep", action="store_true", help="lines that pass stay as they are")
    parser.add_argument("--measure", type=int, nargs="?", const=6, metavar="N", help="time the first N (default: 6) on the GPU")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that compile (default: one a core)")
    parser.add_argument("--flagship", type=Path, metavar="FILE", help="time the flagship lines on the GPU; FILE gets the times")
    parser.add_argument("--seconds", type=float, help="with --flagship: stop after so many")
    parser.add_argument("--rehearse", action="store_true", help="with --flagship: that all runs, interpreted on the CPU")
    parser.add_argument("--adopt", type=Path, metavar="FILE", help="put the lines that --flagship chose into the table")
    options = parser.parse_args(arguments)
    if options.adopt:
        return tune_flagship.adopt(options.adopt, passes)
    if options.flagship:
        if options.rehearse and not interpreting():
            parser.error("--rehearse interprets the kernels: set TRITON_INTERPRET=1")
        if not options.rehearse and not torch.cuda.is_available():
            parser.error("--flagship needs a GPU, and torch sees none; --rehearse shows that all runs")
        return tune_flagship.tune(options.flagship, options.seconds, options.rehearse)
    if options.measure:
        if not torch.cuda.is_available():
            parser.error("--measure needs a GPU, and torch sees none; name an --arch to choose by the compiler's verdict")
        options.arch = [launch_table.architecture(torch.device("cuda"))]
    if not options.arch:
        parser.error(f"the table would be written anew, which takes hours: name an --arch ({', '.join(TARGETS)}), or --measure")
    before = set(launch_table.entries()) if launch_table.TABLE.exists() else set()
    table = {Slot.of(entry): entry for entry in before}

    def fill(slots: list[Slot]) -> None:
        kept = [table.get(slot) if options.keep else None for slot in slots]
        chosen = pool.map(passing, slots, kept, [options.measure or 1] * len(slots))
        for slot, entries in zip(slots, chosen, strict=True):
            table[slot] = fastest(entries) if options.measure else entries[0]
            if table[slot] not in before:
                print(table[slot], flush=True)
            launch_table.write(list(table.values()))

    lines = list(product(options.kernel, options.arch, (16, 32), BLOCK_DIMS))
    sliced = [line for line in lines if line[0].startswith("partial_global")]
    with ProcessPoolExecutor(options.jobs) as pool:
        fill([Slot(*line, first, False) for line in lines for first in (SLICES if line in sliced else (1,))])
        # slices of a tile of the last line or more are long
        tiles = {line: table[Slot(*line, SLICES[-1], False)].block_n for line in sliced}
        for line in sliced:
            for slot in [slot for slot in table if slot[:4] == line and slot.long and slot.slice_from != tiles[line]]:
                del table[slot]
        fill([Slot(*line, tiles[line], True) for line in sliced])
    launch_table.write(list(table.values()))
    changed = set(table.values()) - before
    print(f"{len(changed)} lines changed, {len(table)} in all: {launch_table.TABLE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
