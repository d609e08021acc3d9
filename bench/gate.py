"""Turn an hour on a GPU into figures: correctness first, then every benchmark, in parts that can be resumed.

    python3 bench/gate.py                      what is left to do, on the GPU of this machine
    python3 bench/gate.py --part flagship      one part
    python3 bench/gate.py --list               the parts
    python3 bench/gate.py --rehearse           all of it in small on a CPU: tiny shapes, interpreted kernels

Runs with the python3, torch and triton that are there, installs nothing and needs nothing outside the repository. What a
step found stands in OUT/gate.json as soon as it ends, its tables and the most telling pictures beside it (eight files in
all, to be committed); the log and all other pictures are in runs/gate. The same command goes on with the parts that have not
passed for this commit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from bench.records import ROOT, environment, slug

# a part that takes longer is broken; its steps share this
PART_SECONDS = 8 * 60
COMPILE_PROCESSES = 16

# beside gate.json
KEPT = (
    "flagship.csv",
    "full.csv",
    "full_pgp_time_by_visual_tokens.png",
    "band.csv",
    "band_cpp_time_by_window.png",
    "projector.csv",
    "train_paper.csv",
)

PASSED, FAILED, UNAVAILABLE = "passed", "failed", "unavailable"


@dataclass(frozen=True)
class Place:
    """Where the gate runs, and where its results go."""

    rehearsal: bool
    out: Path
    scratch: Path

    def python(self, *arguments: str) -> list[str]:
        """A command line of this interpreter."""
        return [sys.executable, *arguments]

    def measure(self, script: str, *arguments: str) -> list[str]:
        """A run of a benchmark's script."""
        small = ["--device", "cpu", "--dry-run"] if self.rehearsal else ["--device", "cuda"]
        return self.python(script, "--out", str(self.scratch), *small, *arguments)

    def bench(self, suite: str, *arguments: str) -> list[str]:
        """A run of bench/run.py."""
        return self.measure("bench/run.py", "--suite", suite, *arguments)

    def tests(self, *arguments: str) -> list[str]:
        """A run of the kernels' tests: on the GPU, or interpreted in the rehearsal."""
        return self.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)

    @property
    def arch(self) -> str:
        """The launch table's architecture."""
        from pargo_kernels.triton_path.launch_table import architecture

        return architecture(torch.device("cpu" if self.rehearsal else "cuda"))


@dataclass(frozen=True)
class Step:
    """One command of a part; ``missing`` says why it cannot run here."""

    name: str
    command: list[str]
    environment: dict[str, str]
    missing: str | None = None


@dataclass
class Outcome:
    """What became of a step."""

    part: str
    step: str
    status: str
    seconds: float
    commit: str
    command: str
    last_words: str


def flagship(place: Place) -> list[Step]:
    """Are the two flagship shapes right, and how fast are they?"""
    return [
        Step("environment", place.python("-m", "pargo_kernels.env_report"), {}),
        Step("bench", place.bench("flagship"), {}),
    ]


def kernels(place: Place) -> list[Step]:
    """Does every kernel compile here, and is it right in every dtype, twice the same, whatever the batch, past 2^31?"""
    compiled = ["-m", "pargo_kernels.aot", "--arch", place.arch, "--jobs", str(COMPILE_PROCESSES)]
    if place.rehearsal:
        return [
            Step("compile", place.python(*compiled, "--sample", "2"), {}),
            Step("tests", place.tests("tests/kernels/test_kernels.py", "-k", "batch_row and chunk"), {"TRITON_INTERPRET": "1"}),
        ]
    processes = ["-n", str(COMPILE_PROCESSES)]
    return [
        Step("compile", place.python(*compiled), {}),
        Step("tests", place.tests(*processes, "tests/kernels"), {}),
    ]


def memory(place: Place) -> list[Step]:
    """Does a memory checker see an access outside a buffer, or a race?"""
    tool = shutil.which("compute-sanitizer")
    missing = None if tool else "compute-sanitizer is not installed"
    test = place.tests("tests/kernels/test_accuracy.py", "-k", "corner and triton-cuda and bfloat16")
    return [
        Step(check, [tool or "compute-sanitizer", "--tool", check, "--error-exitcode", "9", *test], {}, missing)
        for check in ("memcheck", "racecheck")
    ]


def peers(place: Place) -> list[Step]:
    """How fast is each op against every way to compute it that runs here?"""
    if place.rehearsal:
        return [Step("full", place.bench("full", "--providers", "pargo", "sdpa-mask-flash", "split", "blocks"), {})]
    return [Step("full", place.bench("full"), {})]


def band(place: Place) -> list[Step]:
    """From which window on is dense attention as fast?"""
    few = ["--providers", "pargo", "sdpa-mask-flash"] if place.rehearsal else []
    return [Step("band", place.bench("band", *few), {})]


def projector(place: Place) -> list[Step]:
    """What does a training step of the whole projector gain?"""
    return [Step("projector", place.bench("projector"), {})]


def train(place: Place) -> list[Step]:
    """What does a whole training step reach, and what do the kernels and packing gain in it?"""
    return [Step("paper", place.measure("bench/train.py", "--size", "paper"), {})]


PARTS: dict[str, Callable[[Place], list[Step]]] = {
    part.__name__: part for part in (flagship, kernels, memory, peers, band, projector, train)
}


class Gate:
    """Runs parts and keeps their outcomes."""

    def __init__(self, place: Place, commit: str):
        self.place = place
        self.commit = commit
        self.file = place.out / "gate.json"
        for folder in (place.out, place.scratch):
            folder.mkdir(parents=True, exist_ok=True)
        self.outcomes: list[Outcome] = []
        if self.file.exists():
            self.outcomes = [Outcome(**outcome) for outcome in json.loads(self.file.read_text())]

    def done(self, part: str) -> bool:
        """Whether every step of a part has passed, or cannot run here, for this commit."""
        statuses = {o.step: o.status for o in self.outcomes if o.part == part and o.commit == self.commit}
        return all(statuses.get(step.name) in (PASSED, UNAVAILABLE) for step in PARTS[part](self.place))

    def run(self, part: str) -> bool:
        """Run a part's steps, one after another; a failure does not keep the next step from running."""
        left = float(PART_SECONDS)
        fine = True
        for step in PARTS[part](self.place):
            outcome = self._run_step(part, step, left)
            left = max(1.0, left - outcome.seconds)
            self.outcomes = [o for o in self.outcomes if (o.part, o.step) != (part, step.name)] + [outcome]
            for name in KEPT:
                if (self.place.scratch / name).exists():
                    shutil.copyfile(self.place.scratch / name, self.place.out / name)
            aside = self.file.with_suffix(".partial")
            aside.write_text(json.dumps([asdict(o) for o in self.outcomes], indent=1))
            aside.replace(self.file)
            print(f"{part}/{step.name}: {outcome.status}, {outcome.seconds:.0f} s", flush=True)
            if outcome.status == FAILED:
                print(outcome.last_words, flush=True)
            fine = fine and outcome.status != FAILED
        return fine

    def _run_step(self, part: str, step: Step, seconds: float) -> Outcome:
        written = _shown(" ".join([*(f"{k}={v}" for k, v in step.environment.items()), *step.command]))
        about = {"part": part, "step": step.name, "commit": self.commit, "command": written}
        if step.missing:
            return Outcome(**about, status=UNAVAILABLE, seconds=0.0, last_words=step.missing)
        begin = time.perf_counter()
        log = self.place.scratch / "gate.log"
        with open(log, "a") as file:
            file.write(f"\n$ {written}\n")
            file.flush()
            start = file.tell()
            try:
                code = subprocess.run(
                    step.command, cwd=ROOT, env={**os.environ, **step.environment}, stdout=file,
                    stderr=subprocess.STDOUT, timeout=seconds, check=False,
                ).returncode  # fmt: skip
                verdict = "" if code == 0 else f"\nexit status {code}"
            except subprocess.TimeoutExpired:
                code, verdict = 124, f"\nstopped after {seconds:.0f} s: a part has {PART_SECONDS} s"
        with open(log, errors="replace") as file:
            file.seek(start)
            words = _shown(file.read()[-3000:]) + verdict
        return Outcome(**about, status=PASSED if code == 0 else FAILED, seconds=time.perf_counter() - begin, last_words=words)


def _shown(words: str) -> str:
    # no path of this machine in results that are committed
    return words.replace(sys.executable, "python3").replace(f"{ROOT}{os.sep}", "")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 if all that ran has passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, metavar="NAME", help=f"{', '.join(PARTS)}; default: what is left")
    parser.add_argument("--list", action="store_true", help="print the parts and the questions they answer")
    parser.add_argument("--rehearse", action="store_true", help="everything in small on the CPU")
    parser.add_argument(
        "--out", type=Path, help="folder for results; default: bench/results/DEVICE (a rehearsal: runs/rehearsal)"
    )
    args = parser.parse_args(argv)
    if args.list:
        print("\n".join(f"{name:<9} {part.__doc__}" for name, part in PARTS.items()))
        return 0
    if not args.rehearse and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; --rehearse runs everything in small on the CPU")
    machine = environment(torch.device("cpu" if args.rehearse else "cuda"))
    out = args.out or (ROOT / "runs" / "rehearsal" if args.rehearse else ROOT / "bench" / "results" / slug(machine.device))
    scratch = out / "all" if args.rehearse else ROOT / "runs" / "gate" / slug(machine.device)
    gate = Gate(Place(args.rehearse, out.resolve(), scratch.resolve()), machine.commit)
    chosen = args.part or [part for part in PARTS if not gate.done(part)]
    if not chosen:
        print(f"all parts have passed for {machine.commit[:12]}: {gate.file}")
        return 0
    # every part runs, whatever became of the one before
    results = [gate.run(part) for part in chosen]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
