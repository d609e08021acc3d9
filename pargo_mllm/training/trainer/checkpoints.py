"""Checkpoints of a stage: ``checkpoint-N`` is complete, or is not there.

Trainer writes into a folder aside, which becomes ``checkpoint-N`` by a rename, after its manifest. What a killed save left
aside is removed at the next start; a checkpoint that the disk damaged later on is told by its checksums.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from pargo_mllm.files import MANIFEST, sync, what_is_wrong, write_manifest

ASIDE = ".checkpoint.partial"
KEPT = 2


def newest_step(folder: Path) -> int | None:
    """The step of the newest checkpoint below ``folder``, or None."""
    return max((step_of(checkpoint) for checkpoint in _checkpoints(folder)), default=None)


def last_checkpoint(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint below ``folder`` whose files are what was written, or None.

    Newer ones that are not, and what a killed save left aside, are removed; ``say`` gets a line for each of the former.
    """
    shutil.rmtree(folder / ASIDE, ignore_errors=True)
    for checkpoint in sorted(_checkpoints(folder), key=step_of, reverse=True):
        problem = what_is_wrong(checkpoint)
        if problem is None:
            return checkpoint
        say(f"{checkpoint} is not used: {problem}")
        shutil.rmtree(checkpoint)
    return None


def publish(written: Path, folder: Path, settings: dict[str, Any]) -> None:
    """Make the files of ``written``, a folder ``checkpoint-N`` aside, the newest checkpoint below ``folder``.

    The newest ``KEPT`` stay; older ones are removed once the new one is safely on the disk.
    """
    write_manifest(written, settings)
    os.rename(written, folder / written.name)
    sync(folder)
    shutil.rmtree(folder / ASIDE)
    for checkpoint in sorted(_checkpoints(folder), key=step_of)[:-KEPT]:
        shutil.rmtree(checkpoint)


def settings_of(checkpoint: Path) -> dict[str, Any]:
    """What a complete checkpoint was published with."""
    return json.loads((checkpoint / MANIFEST).read_text())["settings"]


def step_of(checkpoint: Path) -> int:
    """N of ``checkpoint-N``."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rsplit("-", 1)[1].isdigit()]
