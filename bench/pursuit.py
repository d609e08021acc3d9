"""Seconds and memory that matching pursuit takes to say a thousand tokens by a whole vocabulary.

    OMP_NUM_THREADS=2 python bench/pursuit.py

Two vocabularies of 128,000 random words that share a mean, 512 wide in fp32 and 4,096 wide in bf16, and tokens of noise, which
lie close to no word: the most words have to be looked at again. Times are whole, the lengths of the words included; memory is
the most that the process held above what it held before, the table not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from bench.contest.records import environment, slug
from bench.contest.timing import caveats, meter_for, quantiles
from pargo_mllm.alignment.pursuit import matching_pursuit
from pargo_mllm.alignment.vocabulary import Vocabulary
from pargo_mllm.files import write_whole

ROOT = Path(__file__).resolve().parent.parent
# width, dtype, and the seconds that two cores may take
CASES = ((512, torch.float32, 10.0), (4096, torch.bfloat16, 90.0))
MOST_BYTES = 2 * 2**30
LINE = "{:>7} {:>9} {:>28} {:>8} {:>12} {:>10} {:>10}"


def main() -> int:
    """Measure, print a table, write a file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=1_000, metavar="N")
    parser.add_argument("--words", type=int, default=128_000, metavar="N", help="of the vocabulary")
    parser.add_argument("--said", type=int, default=5, metavar="N", help="words that each token is said by")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON (default: runs/bench/MACHINE/pursuit.json)")
    options = parser.parse_args()
    device = torch.device(options.device)
    meter = meter_for(device)
    machine = environment(device)
    print("\n".join([str(machine), *caveats(machine.threads, meter)]), flush=True)
    print(LINE.format("width", "dtype", "seconds (20-80 %)", "aim", "peak, MiB", "aim", "load"))
    rows: list[dict[str, Any]] = []
    for width, dtype, seconds in CASES:
        table, tokens = made(options.words, width, dtype, device), made(options.tokens, width, torch.float32, device)

        def step(mark: Any, table: torch.Tensor = table, tokens: torch.Tensor = tokens) -> None:
            # a new one: what it computes once counts
            matching_pursuit(tokens, Vocabulary.of_table(table), options.said)
            mark()

        _, peak = meter.peak(step)
        times = []
        for _ in range(options.rounds):
            meter.synchronize()
            times.append(meter.call(step)[-1])
        low, middle, high = quantiles(times)
        load = os.getloadavg()[0]
        rows.append({"width": width, "dtype": str(dtype), "seconds": times, "aim_seconds": seconds, "peak": peak, "load": load})
        shown = "?" if peak is None else f"{peak / 2**20:,.0f}"
        spread = f"{middle:.1f} ({low:.1f}-{high:.1f})"
        name = str(dtype).removeprefix("torch.")
        print(
            LINE.format(width, name, spread, f"{seconds:.0f}", shown, f"{MOST_BYTES / 2**20:,.0f}", f"{load:.1f}"), flush=True
        )
        del table, step
    out = options.out or ROOT / "runs" / "bench" / slug(machine.device) / "pursuit.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {"machine": str(machine), "tokens": options.tokens, "words": options.words, "said": options.said}
    write_whole(out, json.dumps({**about, "aim_bytes": MOST_BYTES, "rows": rows}, indent=1))
    print(f"{out}")
    return 0


def made(rows: int, width: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Normal numbers around a mean that all rows share."""
    generator = torch.Generator().manual_seed(width + rows)
    table = torch.empty(rows, width, dtype=dtype, device=device)
    mean = 0.5 * torch.randn(width, generator=generator)
    for part in table.split(4096):
        part.copy_(torch.randn(part.shape, generator=generator) + mean)
    return table


if __name__ == "__main__":
    sys.exit(main())
