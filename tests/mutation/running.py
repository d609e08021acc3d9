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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.mutation import c_source, python_source
from tests.mutation.mutant import Mutant
from tests.mutation.targets import Target

# what a run of the kernels' tests reads
COPIED = ("pyproject.toml", "pargo_kernels", "tests/__init__.py", "tests/conftest.py", "tests/kernels", "tests/mutation")
# a mutant that is stamped so is newer than whatever was compiled before
FIRST_STAMP = 2_000_000_000
KILLED, HUNG, SURVIVED, BROKEN = "killed", "hung", "survived", "does not compile"
NOTHING_RAN = (4, 5)


class Outcome(NamedTuple):
    """What became of a mutant."""

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
        """End the process: by its input's end, at once where it is in the middle of tests."""
        self.process.kill()
        self.process.communicate()


def run_mutants(
    root: Path, scratch: Path, target: Target, mutants: list[Mutant], jobs: int, compiles: Callable[[Path, Mutant], bool] | None
) -> Iterator[Outcome]:
    """Outcomes as they come.

    Raises:
        RuntimeError: if the target's tests fail without a mutant, or none run.
    """
    if not mutants:
        return
    folders = [scratch / str(number) for number in range(min(jobs, len(mutants)))]
    workers = [Worker(root, folder, target) for folder in folders]
    try:
        status, seconds = workers[0].run(target.files[0], None, 600)
        if status != 0:
            raise RuntimeError(f"without a mutant the tests end with status {status}:\n{workers[0].log.read_text()[-4000:]}")
        # on a busy machine tests take longer at one time than at another
        allowed = 20 + 5 * seconds
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
                        break
                    done.put(_outcome(root, worker, mutant, allowed, compiles))
                done.put(None)
            except BaseException as error:
                done.put(error)

        threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        for _ in workers:
            while (outcome := done.get()) is not None:
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome
    finally:
        for worker in workers:
            worker.close()


def _outcome(root: Path, worker: Worker, mutant: Mutant, allowed: float, compiles) -> Outcome:
    text = mutant.apply((root / mutant.file).read_text())
    if compiles is not None and not compiles(worker.folder, mutant):
        return Outcome(mutant, BROKEN, 0.0)
    status, seconds = worker.run(mutant.file, text, allowed)
    if status is None:
        return Outcome(mutant, HUNG, seconds)
    return Outcome(mutant, SURVIVED if status == 0 else KILLED, seconds)
