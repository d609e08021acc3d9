"""Checkpoints of a run: written aside and renamed, so that what has a checkpoint's name is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from pargo_mllm.training.cache import sync, what_is_wrong, write_manifest

KEPT = 2
ASIDE = ".saving"


class TrainingStopped(RuntimeError):
    """Training cannot go on; the message says at which step, why, and what is safe."""


def checkpoint_name(step: int) -> str:
    """The folder's name, the one that Trainer gives it."""
    return f"{PREFIX_CHECKPOINT_DIR}-{step}"


def publish(folder: Path, step: int) -> None:
    """Give the checkpoint that was written into ``folder / ASIDE`` its manifest and its name; older ones are removed."""
    name = checkpoint_name(step)
    write_manifest(folder / ASIDE / name, {"step": step})
    shutil.rmtree(folder / name, ignore_errors=True)
    os.rename(folder / ASIDE / name, folder / name)
    sync(folder)
    for old in _steps(folder)[KEPT:]:
        shutil.rmtree(folder / checkpoint_name(old))


def last_checkpoint(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest complete checkpoint below ``folder``, or None. What was cut short is removed."""
    shutil.rmtree(folder / ASIDE, ignore_errors=True)
    for step in _steps(folder):
        checkpoint = folder / checkpoint_name(step)
        problem = what_is_wrong(checkpoint)
        if problem is None:
            return checkpoint
        say(f"{checkpoint} is not used: {problem}")
        shutil.rmtree(checkpoint)
    return None


def safe_so_far(folder: Path) -> str:
    """A sentence that says where training can go on from."""
    steps = _steps(folder)
    return f"The newest checkpoint is of step {steps[0]}." if steps else "There is no checkpoint yet."


@contextmanager
def writing(folder: Path, step: int) -> Iterator[None]:
    """Says what is safe when a checkpoint cannot be written.

    Raises:
        TrainingStopped: for what the disk refused.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch.save reports a full disk in words of its own
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        shutil.rmtree(folder / ASIDE, ignore_errors=True)
        raise TrainingStopped(
            f"step {step}: its checkpoint cannot be written: {' '.join(str(error).split())}. {safe_so_far(folder)} Make room, "
            "and the same command goes on."
        ) from error


def _steps(folder: Path) -> list[int]:
    """Steps of the checkpoints, newest first."""
    names = [path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-") for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)
