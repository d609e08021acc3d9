"""Turn minutes on a GPU into figures: correctness first, then every benchmark, in parts that can be resumed.

    python3 bench/gate.py --minutes 8          the most telling parts, in eight minutes with the start of this program
    python3 bench/gate.py                      all of it, on a GPU of one's own: an hour or more
    python3 bench/gate.py --part bitwise       one part
    python3 bench/gate.py --minutes 8 --list   the parts, what each may take, and what it should
    python3 bench/gate.py --rehearse           all of it in small on a CPU: tiny shapes, interpreted kernels

Runs with the python3, torch and triton that are there, installs nothing and needs nothing outside the repository. A part that
no longer fits into the minutes is skipped, and said; a step that outruns its cap is stopped, and the rows that it had written
stay. What a step found stands in OUT/gate.json as soon as it ends, its log, rows and tuned launch parameters beside it (eight
files at most, to be committed). The same command goes on with what has not passed for this commit.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import signal
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from bench.contest.records import ROOT, environment, slug
from bench.gating.parts import FULL_KEPT, SHORT_KEPT, Part, Place, full_gate, short_gate
from bench.gating.runner import Budget, Gate


def table(parts: list[Part], minutes: float | None) -> str:
    """The parts, in order, with the seconds that each may take and should take, and what it answers."""
    lines = [f"{'part':<10} {'cap s':>6} {'about s':>8}  question"]
    for part in parts:
        cap = "rest" if part.cap is None else f"{part.cap:.0f}"
        lines.append(f"{part.name:<10} {cap:>6} {part.estimate:>8.0f}  {part.question}")
        if len(part.steps) > 1:
            lines += [f"  {step.name:<15} {step.estimate:>8.0f}" + _missing(step.missing) for step in part.steps]
    total = sum(part.estimate for part in parts)
    given = "" if minutes is None else f", of {60 * minutes:.0f} s that there are"
    return "\n".join([*lines, f"about {total:.0f} s in all{given}"])


def _missing(reason: str | None) -> str:
    return f"  [not here: {reason}]" if reason else ""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 if all that ran has passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="all the time there is, from the start of this program; default: no end")
    parser.add_argument("--part", nargs="+", metavar="NAME", help="these parts (--list names them); default: what is left")
    parser.add_argument("--list", action="store_true", help="print the parts and the questions they answer")
    parser.add_argument("--rehearse", action="store_true", help="everything in small on the CPU")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for results; default: bench/results/DEVICE, without --minutes DEVICE/full (a rehearsal: runs/rehearsal)",
    )
    args = parser.parse_args(argv)
    if args.minutes is not None and not 0 < args.minutes < math.inf:
        parser.error(f"--minutes {args.minutes:g} must be above 0 and finite; leave it out for a gate without an end")
    # the import of torch is a part of what was rented
    budget = Budget(None if args.minutes is None else 60 * args.minutes, _seconds_since_start())
    on_cuda = torch.cuda.is_available() and not args.rehearse
    machine = environment(torch.device("cuda" if on_cuda else "cpu"))
    place = _place(args.out, not on_cuda, slug(machine.device), args.minutes is not None)
    parts = (full_gate if args.minutes is None else short_gate)(place)
    if args.rehearse:
        parts = [part.without_caps() for part in parts]
    names = [part.name for part in parts]
    if unknown := [name for name in args.part or () if name not in names]:
        parser.error(f"--part {' '.join(unknown)} is unknown: use {', '.join(names)}")
    named = [part for part in parts if part.name in (args.part or names)]
    if args.list:
        print(table(named, args.minutes))
        return 0
    if not on_cuda and not args.rehearse:
        parser.error("torch sees no CUDA device here; --rehearse runs everything in small on the CPU")

    # a gate that is ended in the usual way ends its step
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    kept = FULL_KEPT if args.minutes is None else SHORT_KEPT
    changed = machine.dirty or machine.commit == "unknown"
    code = f"{machine.commit} with changes {_digest()}" if changed else machine.commit
    try:
        gate = Gate(place, code, parts, kept, budget)
    except (OSError, ValueError) as error:
        parser.error(f"--out {place.out}: {error}")
    chosen = named if args.part else gate.left()
    if not chosen:
        print(f"all parts have passed for {gate.commit}: {gate.file}")
        return 0
    print(f"{machine}\n{table(chosen, args.minutes)}\n", flush=True)
    fine = gate.run(chosen, again=bool(args.part))
    if left := [part.name for part in gate.left()]:
        print(f"not done yet: {', '.join(left)}; the same command goes on with them")
    return 0 if fine else 1


def _seconds_since_start() -> float:
    """Seconds that this process has run, the import of torch among them; 0 where the system does not say."""
    try:
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        # the command's name, in brackets, may hold anything
        ticks = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19]
        return uptime - int(ticks) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


def _digest() -> str:
    """What tells one state of the code from another where no commit does."""
    folders = ("pargo_kernels", "pargo_mllm", "bench", "tests/kernels")
    files = (file for folder in folders for kind in ("*.py", "*.json", "*.c", "*.h") for file in (ROOT / folder).rglob(kind))
    digest = hashlib.sha256()
    for file in sorted(file for file in files if "results" not in file.parts):
        digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _place(out: Path | None, rehearsal: bool, device: str, short: bool) -> Place:
    folder = device if short else f"{device}/full"
    if rehearsal:
        out = out or ROOT / "runs" / "rehearsal"
        return Place(True, out.resolve(), (out / "all").resolve())
    return Place(False, (out or ROOT / "bench" / "results" / folder).resolve(), ROOT / "runs" / "gate" / folder)


if __name__ == "__main__":
    sys.exit(main())
