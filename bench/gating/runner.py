"""Running parts inside a budget of seconds, and keeping what became of each step, whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.contest.records import ROOT
from bench.gating.parts import SECONDS, Part, Place, Step

PASSED, FAILED, STOPPED, SKIPPED, UNAVAILABLE = "passed", "failed", "stopped", "skipped", "unavailable"
# of a budget, for what the gate itself does at the end
RESERVE_SECONDS = 3.0
# between the end that a step is told and the one that it is given
END_SECONDS = 8.0
LAST_WORDS, LOG_OF_A_STEP = 3000, 1 << 20
_PR_SET_PDEATHSIG = 1


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


class Budget:
    """Seconds until an end, or without one."""

    def __init__(self, seconds: float | None, spent: float = 0.0):
        self._end = None if seconds is None else time.monotonic() + seconds - spent - RESERVE_SECONDS

    @property
    def left(self) -> float:
        """Seconds left; infinity without an end."""
        return float("inf") if self._end is None else self._end - time.monotonic()


class Gate:
    """Runs parts and keeps their outcomes."""

    def __init__(self, place: Place, commit: str, parts: Iterable[Part], kept: Iterable[str], budget: Budget):
        self.place, self.commit, self.budget = place, commit, budget
        self.parts = list(parts)
        self.file, self.log = place.out / "gate.json", place.out / "gate.log"
        self.here = place.scratch / "passed_here.json"
        self.kept = {self.file.name, self.log.name, *kept, *(f"{name}.partial" for name in kept)}
        for folder in (place.out, place.scratch):
            folder.mkdir(parents=True, exist_ok=True)
        # what lay there before is somebody else's
        self.foreign = {file.name for file in place.out.iterdir()} - self.kept
        self.outcomes = self._earlier() if self.file.exists() else []

    def done(self, part: Part, step: Step) -> bool:
        """Whether a step has passed, or cannot run here, for this commit; a local one on this machine."""
        if step.local and [part.name, step.name, self.commit] not in self._passed_here():
            return False
        return any(
            o.status in (PASSED, UNAVAILABLE)
            for o in self.outcomes
            if (o.part, o.step, o.commit) == (part.name, step.name, self.commit)
        )

    def left(self) -> list[Part]:
        """The parts with steps that are not done; none, if what is not done would serve only those."""
        parts = [part for part in self.parts if not all(self.done(part, step) for step in part.steps)]
        return parts if any(not step.local for part in parts for step in part.steps) else []

    def run(self, parts: Iterable[Part], again: bool = False) -> bool:
        """Run the steps of the parts that are not done (``again``: all); returns whether none failed or was stopped."""
        fine = True
        for part in parts:
            cap = float("inf") if part.cap is None else part.cap
            for step in part.steps:
                if self.done(part, step) and not again:
                    continue
                outcome = self._run_step(part, step, min(cap, self.budget.left))
                cap -= outcome.seconds
                self._keep(outcome, step)
                fine = fine and outcome.status not in (FAILED, STOPPED)
                if part.needed and outcome.status not in (PASSED, UNAVAILABLE):
                    print(f"nothing else can be told without {part.name}: the gate ends here", flush=True)
                    return False
        return fine

    def _run_step(self, part: Part, step: Step, left: float) -> Outcome:
        about = {"part": part.name, "step": step.name, "commit": self.commit}
        written = _shown(" ".join([*(f"{k}={v}" for k, v in step.environment.items()), *step.command]))
        if step.missing:
            return Outcome(**about, command=written, status=UNAVAILABLE, seconds=0.0, last_words=step.missing)
        if left < step.needs:
            reason = f"{max(0.0, left):.0f} s left, needs {step.needs:.0f}"
            return Outcome(**about, command=written, status=SKIPPED, seconds=0.0, last_words=reason)
        seconds = min(left, step.cap or left)
        told = f"{max(1.0, min(seconds, 86_400.0) - END_SECONDS):.0f}"
        command = [told if word == SECONDS else word for word in step.command]
        written = written.replace(SECONDS, told)
        self._put_aside()
        begin = time.monotonic()
        code, words = self._in_log(written, command, step.environment, seconds)
        taken = time.monotonic() - begin
        status = PASSED if code == 0 else FAILED
        if code is None:
            status, words = STOPPED, f"{words}\nstopped after {taken:.0f} s, the end of the {part.name} part or of the budget"
        elif code:
            words = f"{words}\nexit status {code}"
        return Outcome(**about, command=written, status=status, seconds=taken, last_words=words)

    def _in_log(self, written: str, command: list[str], extra: dict[str, str], seconds: float) -> tuple[int | None, str]:
        """Run a command with its output in the log; its exit status (None: it was stopped) and its last words."""
        with open(self.log, "a") as file:
            file.write(f"\n$ {written}\n")
            file.flush()
            start = file.tell()
            code = run_command(command, {**os.environ, **extra}, file, seconds)
        with open(self.log, "r+", errors="replace") as file:
            file.seek(start)
            words = _shown(file.read()[-LOG_OF_A_STEP:])
            file.seek(start)
            file.truncate()
            file.write(words)
        return code, words[-LAST_WORDS:]

    def _keep(self, outcome: Outcome, step: Step) -> None:
        others = [o for o in self.outcomes if (o.part, o.step) != (outcome.part, outcome.step)]
        # that it was not tried again, for this commit or a later one, says less than what it did when it was
        if outcome.status != SKIPPED or len(others) == len(self.outcomes):
            self.outcomes = [*others, outcome]
        write_json(self.file, [asdict(o) for o in self.outcomes])
        if step.local and outcome.status == PASSED:
            write_json(self.here, [*self._passed_here(), [outcome.part, outcome.step, outcome.commit]])
        for file in self.place.out.iterdir():
            if file.is_file() and file.name not in self.kept | self.foreign:
                shutil.move(file, self.place.scratch / file.name)
        left = "" if self.budget.left == float("inf") else f"; {max(0.0, self.budget.left):.0f} s left"
        why = f" ({outcome.last_words})" if outcome.status in (SKIPPED, UNAVAILABLE) else ""
        print(f"{outcome.part}/{outcome.step}: {outcome.status}{why}, {outcome.seconds:.0f} s{left}", flush=True)
        if outcome.status in (FAILED, STOPPED):
            print(outcome.last_words, flush=True)

    def _put_aside(self) -> None:
        # the run that begins would write its own rows over those of one that was stopped
        for file in self.place.out.glob("*.partial"):
            shutil.copyfile(file, self.place.scratch / f"{file.name}.{file.stat().st_mtime_ns}")

    def _earlier(self) -> list[Outcome]:
        try:
            return [Outcome(**outcome) for outcome in json.loads(self.file.read_text())]
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{self.file} is damaged ({error}): move it away, or name another folder for the results"
            ) from error

    def _passed_here(self) -> list[list[str]]:
        return json.loads(self.here.read_text()) if self.here.exists() else []


def run_command(command: list[str], environment: dict[str, str], output, seconds: float) -> int | None:
    """Run a command for at most so many seconds; its exit status, or None where it was stopped. Nothing of it stays behind."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        preexec_fn=_as_a_group,
    )  # fmt: skip
    try:
        return process.wait(None if seconds == float("inf") else seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _kill_all(process)


def _as_a_group() -> None:
    os.setpgrp()
    if sys.platform == "linux":
        # a gate that is killed takes its step along: on a rented GPU nobody would end it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_all(process: subprocess.Popen) -> None:
    # those with a group of their own too
    children = _descendants(process.pid) if process.returncode is None else []
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    process.wait()


def _descendants(parent: int) -> list[int]:
    # from /proc: a rented machine need not have psutil
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found, tried = [], [parent]
    while tried:
        last = tried.pop()
        children = [child for child, its_parent in parents.items() if its_parent == last]
        found += children
        tried += children
    return found


def write_json(path: Path, content: object) -> None:
    """Write a file whole or not at all."""
    aside = path.with_suffix(".writing")
    aside.write_text(json.dumps(content, indent=1))
    aside.replace(path)


def _shown(words: str) -> str:
    # no path of this machine in results that are committed
    return words.replace(sys.executable, "python3").replace(f"{ROOT}{os.sep}", "").replace(f"{sys.prefix}{os.sep}", "")
