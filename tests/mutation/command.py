"""The command: which mutants, what is known of them already, and what is written."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.mutation.mutant import Mutant
from tests.mutation.running import HUNG, KILLED, SURVIVED, Outcome, digest, mutants_of, run_mutants
from tests.mutation.targets import TARGETS, Target

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
EQUIVALENTS = HERE / "equivalents.json"
RESULTS = "build/mutation/results.jsonl"
SAMPLE = 40
# the share of a target's mutants that its tests must kill
LEAST = 0.9
# of an entry for all mutants of a line
ALL = "all"


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this target; may be given several times")
    parser.add_argument("--sample", type=int, default=SAMPLE, help=f"at most so many mutants of a target ({SAMPLE}); 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0): equal seeds draw equal mutants")
    parser.add_argument("--only", metavar="TEXT", help="only mutants whose name (file: line: change) holds this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one for each core)")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--fresh", action="store_true", help=f"forget what {RESULTS} holds of earlier runs")
    parser.add_argument("--minutes", type=float, help="end when these have passed; the next call goes on from there")
    parser.add_argument("--out", type=Path, help="where the score is written as JSON")
    return parser.parse_args(argv)


class Equivalents:
    """Mutants that no test can see, and why: ``[{"file", "line", "change", "why"}]``; without "change", all of the line."""

    def __init__(self, path: Path):
        self.entries = json.loads(path.read_text())

    def among(self, mutants: list[Mutant]) -> set[str]:
        """The names of those that are some of these mutants."""
        return {mutant.name for mutant in mutants if self._of(mutant.file) & _names(mutant)}

    def stale(self, mutants: list[Mutant], target: Target) -> list[str]:
        """Entries that no mutant of the target has."""
        named = set().union(*map(_names, mutants))
        return sorted(set().union(*map(self._of, target.files)) - named)

    def _of(self, file: str) -> set[str]:
        mine = [entry for entry in self.entries if entry["file"] == file]
        return {f"{file}: {entry['line']}: {change}" for entry in mine for change in _list(entry.get("change", ALL))}


def _names(mutant: Mutant) -> set[str]:
    return {mutant.name, f"{mutant.file}: {mutant.line}: {ALL}"}


def _list(value) -> list:
    return value if isinstance(value, list) else [value]


def drawn(mutants: list[Mutant], equivalent: set[str], sample: int, seed: int) -> list[Mutant]:
    """The mutants that are run: those that can be seen, at most ``sample`` of them, drawn with the seed."""
    seen = [mutant for mutant in mutants if mutant.name not in equivalent]
    if sample and len(seen) > sample:
        chosen = set(random.Random(seed).sample(range(len(seen)), sample))
        seen = [mutant for index, mutant in enumerate(seen) if index in chosen]
    return seen


class Results:
    """What became of mutants, a line of JSON each, kept through whatever ends a run."""

    def __init__(self, path: Path, fresh: bool):
        self.path, self.known = path, {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
            except ValueError:
                # the line that a killed run was writing
                continue
            self.known[entry["of"], entry["place"]] = entry

    def get(self, of: str, mutant: Mutant) -> Outcome | None:
        """What an earlier run found."""
        entry = self.known.get((of, self._place(mutant)))
        return Outcome(mutant, entry["result"], entry["seconds"]) if entry else None

    def add(self, of: str, outcome: Outcome) -> None:
        """Keep an outcome."""
        entry = {"of": of, "place": self._place(outcome.mutant), "result": outcome.result, "seconds": outcome.seconds}
        self.known[of, entry["place"]] = entry
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _place(self, mutant: Mutant) -> str:
        return f"{mutant.file} {mutant.start} {mutant.end} {mutant.replacement}"


def main(argv: list[str] | None = None) -> int:
    """Run mutants; 1 where too many of a target survive, 2 where an entry of ``equivalents.json`` is stale."""
    given = arguments(argv)
    # what runs is ended, and copies are removed, whoever asks for it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = Results(ROOT / RESULTS, given.fresh)
    equivalents = Equivalents(EQUIVALENTS)
    end = None if given.minutes is None else time.monotonic() + 60 * given.minutes
    score: dict[str, dict] = {}
    complete = True
    for name in given.target or TARGETS:
        target = TARGETS[name]
        mutants = mutants_of(ROOT, target)
        stale = equivalents.stale(mutants, target)
        if stale:
            print("equivalents.json has entries that no mutant is:", *stale, sep="\n  ", file=sys.stderr)
            return 2
        chosen = drawn(mutants, equivalents.among(mutants), given.sample, given.seed)
        chosen = [mutant for mutant in chosen if given.only is None or given.only in mutant.name]
        if given.list:
            print(*(f"{mutant.file}:{mutant.number}: {mutant.change}" for mutant in chosen), sep="\n")
            continue
        outcomes = run_target(name, target, chosen, results, given.jobs, end)
        complete = complete and len(outcomes) == len(chosen)
        score[name] = _count(mutants, equivalents.among(mutants), len(chosen), outcomes)
    if given.list:
        return 0
    _print_table(score)
    if not complete:
        print("The time ended first; the same command goes on from here.")
    if given.out:
        report = {"sample": given.sample, "seed": given.seed, "targets": score, "score": _total(score)}
        given.out.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if any(entry["run"] and entry["score"] < LEAST for entry in score.values()) else 0


def run_target(
    name: str, target: Target, chosen: list[Mutant], results: Results, jobs: int, end: float | None
) -> list[Outcome]:
    """Outcomes of the mutants, those of earlier runs first; survivors are printed as they are found."""
    of = digest(ROOT, target)
    before = [results.get(of, mutant) for mutant in chosen]
    outcomes = [outcome for outcome in before if outcome is not None]
    waiting = [mutant for mutant, outcome in zip(chosen, before, strict=True) if outcome is None]
    for outcome in outcomes:
        _print_survivor(outcome)
    if end is not None and time.monotonic() > end:
        return outcomes
    with tempfile.TemporaryDirectory(prefix="mutation-") as scratch:
        for outcome in run_mutants(ROOT, Path(scratch), target, waiting, jobs):
            results.add(of, outcome)
            outcomes.append(outcome)
            _print_survivor(outcome)
            found = Counter(o.result for o in outcomes)
            line = f"{name} {len(outcomes)}/{len(chosen)}: " + ", ".join(f"{n} {result}" for result, n in sorted(found.items()))
            print(line, end="\r" if sys.stderr.isatty() else "\n", flush=True, file=sys.stderr)
            if end is not None and time.monotonic() > end:
                break
    return outcomes


def _print_survivor(outcome: Outcome) -> None:
    if outcome.result == SURVIVED:
        print(
            f"\nSurvived ({outcome.mutant.change}):\n{outcome.mutant.diff((ROOT / outcome.mutant.file).read_text())}",
            flush=True,
        )


def _count(mutants: list[Mutant], equivalent: set[str], drawn: int, outcomes: list[Outcome]) -> dict:
    found = Counter(outcome.result for outcome in outcomes)
    counted = found[KILLED] + found[HUNG] + found[SURVIVED]
    return {
        "mutants": len(mutants),
        "equivalent": sum(mutant.name in equivalent for mutant in mutants),
        "drawn": drawn,
        "run": counted,
        "killed": found[KILLED] + found[HUNG],
        "of these hung": found[HUNG],
        "survived": found[SURVIVED],
        "do not count here": len(outcomes) - counted,
        "score": round((found[KILLED] + found[HUNG]) / counted, 4) if counted else None,
        "survivors": sorted(outcome.mutant.name for outcome in outcomes if outcome.result == SURVIVED),
    }


def _total(score: dict[str, dict]) -> float | None:
    run = sum(entry["run"] for entry in score.values())
    return round(sum(entry["killed"] for entry in score.values()) / run, 4) if run else None


def _print_table(score: dict[str, dict]) -> None:
    columns = ("mutants", "equivalent", "drawn", "run", "killed", "of these hung", "survived", "score")
    print(f"\n{'target':14}" + "".join(f"{column:>15}" for column in columns))
    for name, entry in score.items():
        print(f"{name:14}" + "".join(f"{entry[column]!s:>15}" for column in columns))
    print(f"{'all':14}{_total(score)!s:>{15 * len(columns)}}")
