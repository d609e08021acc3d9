"""Mutants on several workers: each has a copy of the package and its tests, and a process in it."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.mutation import c_code, c_source, python_source
from tests.mutation.mutant import Mutant
from tests.mutation.targets import Target

# what a run of the kernels' tests reads
COPIED = ("pyproject.toml", "pargo_kernels", "tests/__init__.py", "tests/conftest.py", "tests/kernels", "tests/mutation")
# a mutant that is stamped so is newer than whatever was compiled before
FIRST_STAMP = 2_000_000_000
KILLED, HUNG, SURVIVED = "killed", "hung", "survived"
# pytest's, where its arguments name no test: killed is what a test has seen
NOTHING_RAN = 5
# seconds that tests on a mutant may take, beside five times their seconds without: a busy machine must not kill
PATIENCE = 20.0


class Outcome(NamedTuple):
    """What became of a mutant: killed, hung, survived, or a reason why it does not count."""

    mutant: Mutant
    result: str
    seconds: float


def mutants_of(root: Path, target: Target) -> list[Mutant]:
    """All mutants of a target's files, file by file."""
    found = []
    for file in target.files:
        source = (root / file).read_text()
        found += (python_source if file.endswith(".py") else c_source).mutants(file, source)
    return found


def digest(root: Path, target: Target) -> str:
    """Of all that a target's outcomes follow from: the package, the target's tests and how they are run."""
    tests = {argument.split("::")[0] for argument in target.arguments if argument.startswith("tests/")}
    files = [*(root / "pargo_kernels").rglob("*"), *(root / "tests/kernels/made").glob("*.py")]
    files += [root / test for test in tests] + [root / "tests/kernels/conftest.py"]
    of_all = hashlib.sha256(repr((target.arguments, target.environment)).encode())
    for file in sorted(file for file in files if file.suffix in (".py", ".c", ".h", ".json")):
        of_all.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return of_all.hexdigest()[:16]


class Worker:
    """A copy of the project in ``folder`` and a process that runs tests in it."""

    def __init__(self, root: Path, folder: Path, target: Target):
        self.folder, self.target = folder, target
        for name in COPIED:
            source, place = root / name, folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy2(source, place)
        environment = os.environ | target.environment
        environment |= {"PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        # hypothesis draws the same examples each time
        environment["CI"] = "1"
        # plug-ins of pytest that no test of the kernels uses take longer to come than the tests
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        self.log, self.stamp = folder / "log", FIRST_STAMP
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutation.worker", *target.preload],
            cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, file: str, text: str | None, seconds: float) -> tuple[int | None, float]:
        """(exit status of the tests, or None where they took too long; their seconds), with another text in a file."""
        self.stamp += 1
        task = {"file": file, "text": text, "stamp": self.stamp, "arguments": self.target.arguments}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(task | {"seconds": seconds, "log": str(self.log)}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["status"], answer["seconds"]

    def close(self) -> None:
        """End the process, and the tests that it is in the middle of."""
        self.process.terminate()
        self.process.communicate()


def run_mutants(root: Path, scratch: Path, target: Target, mutants: list[Mutant], jobs: int) -> Iterator[Outcome]:
    """Outcomes as they come.

    Raises:
        RuntimeError: if the target's tests fail without a mutant, or none run.
    """
    if not mutants:
        return
    workers = [Worker(root, scratch / str(number), target) for number in range(min(jobs, len(mutants)))]
    try:
        status, seconds = workers[0].run(target.files[0], None, 600)
        if status != 0:
            raise RuntimeError(f"without a mutant the tests end with status {status}:\n{workers[0].log.read_text()[-4000:]}")
        allowed = PATIENCE + 5 * seconds
        waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
        done: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()
        for mutant in mutants:
            waiting.put(mutant)

        def work(worker: Worker) -> None:
            try:
                while True:
                    try:
                        mutant = waiting.get_nowait()
                    except queue.Empty:
                        done.put(None)
                        return
                    done.put(judge(root, worker, mutant, allowed))
            except BaseException as error:
                done.put(error)

        for worker in workers:
            threading.Thread(target=work, args=(worker,), daemon=True).start()
        for _ in workers:
            while (outcome := done.get()) is not None:
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome
    finally:
        for worker in workers:
            worker.close()


def judge(root: Path, worker: Worker, mutant: Mutant, allowed: float) -> Outcome:
    """Run the tests on a mutant, for at most ``allowed`` seconds."""
    text, compiled = mutant.apply((root / mutant.file).read_text()), not mutant.file.endswith(".py")
    reason = c_code.what_is_wrong(root, mutant.file, text) if compiled else None
    if reason is not None:
        return Outcome(mutant, reason, 0.0)
    status, seconds = worker.run(mutant.file, text, allowed)
    if status == NOTHING_RAN:
        raise RuntimeError(f"{mutant.name}: no test ran:\n{worker.log.read_text()[-4000:]}")
    if status is None:
        return Outcome(mutant, HUNG, seconds)
    if status != 0:
        return Outcome(mutant, KILLED, seconds)
    same = compiled and c_code.same_machine_code(root, mutant.file, text)
    return Outcome(mutant, "the same machine code" if same else SURVIVED, seconds)
