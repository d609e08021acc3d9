"""Samples a minute that a validation looks at on one core: their records with the heads of their pictures, and decoded.

    python bench/validate.py

A list of conversations is made, each with a photograph's size of noise in a file of its own. Two ways look at it in turns, in
one process: "heads" reads a record and the head of its picture, "decoded" every pixel too. Files are in the system's cache;
what counts is the core's time, that of the system for it included, beside which the clock's time stands in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from PIL import Image

from bench.contest.records import environment, slug
from bench.contest.timing import caveats, meter_for, quantiles
from pargo_mllm.files import write_whole
from pargo_mllm.jobs import engine_of
from pargo_mllm.validation.division import part_of
from pargo_mllm.validation.run import Report, validate
from pargo_mllm.validation.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
WAYS = {"heads": Settings(), "decoded": Settings(decode=True)}
# samples a minute and core that the pass without decoding is made for
AIM = 100_000
# pictures that differ; files are links to them
CONTENTS = 64
WIDTH, HEIGHT = 640, 480
WORDS = [f"word{index}" for index in range(500)]
LINE = "{:>10} {:>10} {:>32} {:>18} {:>10}"


def main() -> int:
    """Measure, print a table, write a file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=20_000, metavar="N")
    parser.add_argument("--decoded", type=int, default=1_000, metavar="N", help="of them, those whose pictures are decoded")
    parser.add_argument("--words", type=int, default=120, metavar="N", help="of an answer")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON (default: runs/bench/MACHINE/validate.json)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cpu")
    machine = environment(device)
    print("\n".join([str(machine), *caveats(machine.threads, meter_for(device))]), flush=True)
    print(LINE.format("way", "samples", "samples/minute/core (20-80 %)", "of 100,000/minute", "decoding"))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        lists = {
            "heads": made(Path(folder) / "heads", options.samples, options.words),
            "decoded": made(Path(folder) / "decoded", min(options.decoded, options.samples), options.words),
        }
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        clocks: dict[str, list[float]] = {name: [] for name in WAYS}
        shares: dict[str, float] = {}
        # the first round is none
        for number in range(options.rounds + 1):
            for name, file in lists.items():
                begin, clock = time.process_time(), time.perf_counter()
                report = looked(file, WAYS[name])
                if number:
                    seconds[name].append(time.process_time() - begin)
                    clocks[name].append(time.perf_counter() - clock)
                shares[name] = report.decoding / report.seconds
    for name in lists:
        samples = options.samples if name == "heads" else min(options.decoded, options.samples)
        low, middle, high = (60 * samples / one for one in quantiles(seconds[name])[::-1])
        row = {"way": name, "samples": samples, "a_minute_a_core": [low, middle, high], "decoding_share": shares[name]}
        rows.append({**row, "clock_seconds": list(quantiles(clocks[name]))})
        spread = f"{middle:,.0f} ({low:,.0f}-{high:,.0f})"
        print(LINE.format(name, f"{samples:,}", spread, f"{middle / AIM:.2f}", f"{shares[name]:.0%}"), flush=True)
    out = options.out or ROOT / "runs" / "bench" / slug(machine.device) / "validate.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {"machine": str(machine), "picture": [WIDTH, HEIGHT], "words": options.words, "rounds": options.rounds}
    write_whole(out, json.dumps({**about, "aim_a_minute": AIM, "rows": rows}, indent=1))
    print(f"{out}")
    return 0


def made(folder: Path, samples: int, words: int) -> Path:
    """A list without a fault."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    contents = []
    for number in range(min(CONTENTS, samples)):
        contents.append(folder / f"{number}.jpg")
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(contents[-1], quality=75)
    records = []
    for number in range(samples):
        name = f"{number:09d}.jpg"
        os.link(contents[number % len(contents)], folder / "images" / name)
        said = " ".join(rng.choice(WORDS, words))
        turns = [{"from": "human", "value": "<image>\nDescribe the picture."}, {"from": "gpt", "value": f"{number}: {said}."}]
        records.append({"id": f"{number:09d}", "image": name, "conversations": turns})
    file = folder / "list.json"
    file.write_text(json.dumps(records))
    return file


def looked(file: Path, settings: Settings) -> Report:
    """A validation of it, which must find nothing.

    Raises:
        SystemExit: if it finds something.
    """
    report = validate(part_of(file), settings, engine_of("local", 1), title=None)
    if report.counts or report.usable != report.samples:
        raise SystemExit(f"{dict(report.counts)} in a list without a fault: nothing is timed.")
    return report


if __name__ == "__main__":
    sys.exit(main())
