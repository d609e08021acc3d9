"""The folder that a run ends with, and the one beside it in which it is built: whose they are, and who builds them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pargo_mllm.files import MANIFEST, sync, what_is_wrong, write_manifest, write_whole
from pargo_mllm.training.recipes import RecipeError
from pargo_mllm.training.trainer.trackers import LOGS

STARTED = "started.json"
MODEL = "model"
LOCK = "lock"


def check_place(output: Path) -> None:
    """Refuse what no folder can be renamed to; found now, not when training is over."""
    try:
        if output.name in ("", ".."):
            raise RecipeError(f"--output: {output} has no name of its own; give the folder's, as in {output / 'stage1'}.")
        for part in (output, *output.parents):
            if part.is_symlink() and not part.exists():
                raise RecipeError(f"--output: {part} is a link that leads to nothing; remove it, or choose another folder.")
        os.lstat(output.with_name(f".{output.name}.partial"))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"--output: {str(output)!r} cannot be a folder: {error}") from error


def is_finished(output: Path, identity: dict[str, Any]) -> bool:
    """Whether a folder holds what the same recipe ended with; what else stands there is refused."""
    if not output.exists():
        return False
    problem = what_is_wrong(output) if output.is_dir() else "it is a file"
    if problem is not None:
        raise RecipeError(f"--output: {output} exists and is no finished training ({problem}); choose another folder.")
    before = json.loads((output / MANIFEST).read_text())["settings"]
    check_same(before, identity, f"--output: {output} was trained")
    return True


def check_work(work: Path, output: Path, identity: dict[str, Any]) -> None:
    """What an earlier run of the same recipe left in ``work`` is gone on from; another recipe's is not."""
    if not os.access(next(parent for parent in output.resolve().parents if parent.exists()), os.W_OK):
        raise RecipeError(f"--output: {output} cannot be written to; choose another folder.")
    try:
        before = json.loads((work / STARTED).read_text())
    except (OSError, ValueError):
        # absent, or killed while it was written: nothing was trained yet
        return
    check_same(before, identity, f"--output: {work} was begun")


def check_same(before: Any, identity: dict[str, Any], what: str) -> None:
    """Refuse other settings than those of before, naming the first that differs.

    Args:
        what: begins the message: "--output: RUN was trained".

    Raises:
        RecipeError: for others.
    """
    known = json.loads(json.dumps(identity))
    before = before if isinstance(before, dict) else {}
    # what the data holds comes last: another place of it is said first
    for key in sorted({*before, *known}, key=lambda key: (key == "content", key)):
        was, now = before.get(key), known.get(key)
        if was == now:
            continue
        with_what = f"with {key}={was!r}, not {now!r}"
        if key == "content":
            changed = "data"
            if _without_labels(was) == _without_labels(now):
                changed = f"--patch-labels {known.get('patch_labels')}"
            with_what = f"with other data: {changed} has changed since"
        raise RecipeError(f"{what} {with_what}; give the same settings to go on, or choose another --output.")


def _without_labels(content: Any) -> list[Any]:
    """What a run's data was, without the file that says what is where in its pictures."""
    parts = content if isinstance(content, list) else []
    return [{name: value for name, value in part.items() if name != "regions"} for part in parts if isinstance(part, dict)]


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """One process at a time builds a folder; the lock ends with the process, however that ends."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = open(work / LOCK, "w")  # noqa: SIM115 (held until the end)
    except OSError as error:
        raise RecipeError(f"--output: {work} cannot be made: {error.strerror}.") from error
    with lock:
        try:
            # this process's alone: what it starts does not hold it any longer
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RecipeError(f"--output: another process is building {work}.") from error
        yield


def begin(work: Path, identity: dict[str, Any]) -> None:
    """What is done once: say whose folder it is, and take away what a killed run wrote behind its checkpoints."""
    write_whole(work / STARTED, json.dumps(identity))
    shutil.rmtree(work / MODEL, ignore_errors=True)
    (work / MODEL).mkdir()


def finish(work: Path, output: Path, identity: dict[str, Any]) -> None:
    """The folder that was asked for appears complete, in one moment; only then its checkpoints go."""
    if (work / LOGS).is_dir():
        shutil.copytree(work / LOGS, work / MODEL / LOGS)
    write_manifest(work / MODEL, identity)
    os.rename(work / MODEL, output)
    sync(output.parent)
    shutil.rmtree(work)
