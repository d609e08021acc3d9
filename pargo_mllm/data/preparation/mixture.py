"""Prepared folders, put together in one file of parts, each with how often it is drawn from."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pargo_mllm.data.preparation.data_set import PreparationError
from pargo_mllm.data.sources.opening import open_regular
from pargo_mllm.data.sources.shards import ABOUT
from pargo_mllm.files import write_whole

ENDINGS = (".yaml", ".yml")
HEAD = "# parts of training data: a folder, seen from here, and how often it is drawn from, relative to the others\n"
# bytes; what a preparation says of its outcome is small
MAX_ABOUT = 2**24


@dataclass(frozen=True)
class Part:
    """A prepared folder.

    Args:
        name: of its set.
        weight: how often it is drawn from, relative to the others.
        records: how many it holds.
        frame: of the boxes in its texts; None where there are none.
    """

    folder: Path
    name: str
    weight: float
    records: int
    frame: str | None = None


def parts(folders: Sequence[Path], weights: Sequence[str] = ()) -> list[Part]:
    """Prepared folders with their weights.

    Args:
        weights: ``NAME=W``, of a folder as it was given, or of a set; others have what :file:`about.json` says.

    Raises:
        PreparationError: for a folder that was not prepared or stands twice, for folders whose boxes are in several frames, and
            for a weight that is none, of nothing here, or of several folders.
    """
    if len({os.path.realpath(folder) for folder in folders}) < len(folders):
        raise PreparationError("a folder is given twice; give it once, with the weight that it shall have.")
    told = [_told(folder) for folder in folders]
    own = [_weight(about.get("weight"), f"{folder / ABOUT}: weight") for folder, about in zip(folders, told, strict=True)]
    for given in weights:
        name, _, value = given.rpartition("=")
        as_given = [number for number, folder in enumerate(folders) if name and Path(name) == folder]
        found = as_given or [number for number, about in enumerate(told) if name == about["set"]]
        if len(found) != 1:
            known = ", ".join(dict.fromkeys([about["set"] for about in told]))
            several = (
                "are several folders; name one as it is given" if found else f"is none of {known}, and no folder given here"
            )
            raise PreparationError(f"--weights {given}: {name or 'a weight without a name'} {several}.")
        own[found[0]] = _weight(value, f"--weights {name}")
    mixed = [
        Part(folder, about["set"], weight, about["records"], about.get("frame"))
        for folder, about, weight in zip(folders, told, own, strict=True)
    ]
    _check_frames(mixed)
    return mixed


def _check_frames(mixed: Sequence[Part]) -> None:
    """No number tells its frame: a model that is shown several learns none."""
    frames: dict[str, list[str]] = {}
    for part in mixed:
        if part.frame is not None:
            frames.setdefault(str(part.frame), []).append(str(part.folder))
    if len(frames) > 1:
        told = "; ".join(f"{frame}: {', '.join(folders)}" for frame, folders in frames.items())
        raise PreparationError(f"boxes are in several frames ({told}); prepare all with the same --frame.")


def write_mixture(mixed: Sequence[Part], file: Path) -> None:
    """Write the parts into a file that ``pargo train --data`` takes; paths in it lead from its folder.

    Raises:
        PreparationError: for a name without the ending of YAML, a file that is there, and one that cannot be written.
    """
    if not file.name.lower().endswith(ENDINGS):
        raise PreparationError(f"--out {file} must end with {' or '.join(ENDINGS)}: training knows a file of parts by it.")
    if os.path.lexists(file):
        raise PreparationError(f"{file} is there already; remove it, or give another --out.")
    here = os.path.realpath(file.parent)
    rows = [{"path": os.path.relpath(os.path.abspath(part.folder), here), "weight": part.weight} for part in mixed]
    text = yaml.safe_dump(rows, sort_keys=False, default_flow_style=None, allow_unicode=True, width=math.inf)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, HEAD + text)
    except (OSError, ValueError) as error:
        raise PreparationError(f"{file} cannot be written: {error}.") from error


def _told(folder: Path) -> Mapping[str, Any]:
    """What a preparation said of its outcome."""
    file = folder / ABOUT
    if not folder.is_dir():
        raise PreparationError(f"{folder} is no folder; give folders that pargo data prepare made.")
    try:
        with open_regular(file) as opened:
            told = json.loads(opened.read(MAX_ABOUT))
    except FileNotFoundError as error:
        raise PreparationError(
            f"{folder} has no {ABOUT}: it was not prepared, or not to its end. Other data stands in a file of parts too, but "
            "that is written by hand."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise PreparationError(f"{file} cannot be read: {error}.") from error
    if not isinstance(told, dict) or not isinstance(told.get("set"), str) or type(told.get("records")) is not int:
        raise PreparationError(f"{file} is none that pargo data prepare wrote: it names no set, or no number of records.")
    if not told["records"]:
        raise PreparationError(f"{folder} holds no record; leave it out.")
    return told


def _weight(value: Any, name: str) -> float:
    try:
        weight = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        weight = math.nan
    if not 0 < weight < math.inf:
        raise PreparationError(f"{name} is {str(value)[:40]!r}; it must be a number above 0.")
    return weight
