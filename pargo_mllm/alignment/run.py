"""Models looked at from beginning to end, on the same pictures."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pargo_mllm.alignment.closely import Close
from pargo_mllm.alignment.comparing import compared
from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.looking import Pictures, Source, draw_pictures
from pargo_mllm.alignment.one_model import CLOSELY, NEEDS_REGIONS, PARTS, Asked, look_at
from pargo_mllm.alignment.words import spelled
from pargo_mllm.data.corpus import shown
from pargo_mllm.loading import check_model_folder, open_config, open_model, open_processor


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    Args:
        models: folders.
        parts: of :data:`pargo_mllm.alignment.one_model.PARTS`; all of them where None.
    """

    models: tuple[Path, ...]
    source: Source
    asked: Asked
    parts: tuple[str, ...] | None = None
    device: str = "cpu"
    dtype: str = "auto"


@dataclass(frozen=True)
class Outcome:
    """What was found.

    Args:
        told: as JSON.
        close: of each model, by name, the pictures that were looked at closely.
    """

    told: dict[str, Any]
    close: dict[str, list[Close]] = field(default_factory=dict)


def align(settings: Settings) -> Outcome:
    """Look at every model.

    Raises:
        UserError: for models or data that cannot be used, and for a part that was asked for by name and cannot be done.
    """
    names = _names(settings.models)
    closely = [part for part in settings.parts or () if part in CLOSELY]
    if closely and not settings.asked.close:
        raise AlignmentError(
            f"--only {closely[0]} looks at pictures closely, and --close is 0: give how many, or leave it out."
        )
    for folder in settings.models:
        check_model_folder(folder)
    processors = [open_processor(folder, open_config(folder)) for folder in settings.models]
    pictures = draw_pictures(settings.source)
    spellings = [spelled(processor.tokenizer, pictures.names, pictures.names) for processor in processors]
    words = [name for name in pictures.names if all(name in spelling.ids for spelling in spellings)]
    missing = {name: why for spelling in spellings for name, why in spelling.missing.items()}
    left_out = _without_regions(settings, pictures, words)
    close: dict[str, list[Close]] = {}
    told: list[dict[str, Any]] = []
    for name, folder, spelling in zip(names, settings.models, spellings, strict=True):
        model, processor = open_model(folder, dtype=settings.dtype)
        model = model.eval().to(settings.device)
        parts = [part for part in settings.parts or PARTS if part not in left_out]
        ids = {word: spelling.ids[word] for word in words}
        found, close[name] = look_at(model, processor, pictures, ids, parts, settings.asked, name)
        for part in settings.parts or ():
            if part in found["left_out"]:
                raise AlignmentError(f"--only {part}: {shown(name)}: {found['left_out'][part]}")
        told.append({"name": name, "folder": str(folder), **found, "left_out": {**left_out, **found["left_out"]}})
        del model, processor
        gc.collect()
        if settings.device == "cuda":
            torch.cuda.empty_cache()
    return Outcome({"data": _about(settings, pictures, words, missing), "models": told, "comparison": compared(told)}, close)


def _names(folders: Sequence[Path]) -> list[str]:
    """Each model's name: the last of its path, or of a link's, and as many folders before it as tell it from the others."""
    paths = [Path(os.path.abspath(folder)).parts for folder in folders]
    if len(set(paths)) < len(paths):
        twice = next(folder for folder, path in zip(folders, paths, strict=True) if paths.count(path) > 1)
        raise AlignmentError(f"{twice} is given twice; a model is compared with others.")
    length = next(count for count in range(1, 1 + max(map(len, paths))) if len({path[-count:] for path in paths}) == len(paths))
    return ["/".join(path[-length:]) for path in paths]


def _without_regions(settings: Settings, pictures: Pictures, words: Sequence[str]) -> dict[str, str]:
    """Parts that cannot be done, and why."""
    asked = set(settings.parts or PARTS)
    if not pictures.with_regions and (pictures.labels is not None or pictures.other_shape):
        who = "instances.json" if pictures.labels is None else pictures.labels.path
        shapes = f", but for {pictures.other_shape:,} that have another shape than it says" if pictures.other_shape else ""
        why = (
            f"{who} says nothing of these {len(pictures):,} pictures{shapes}: pictures must be called there "
            "as they are in the data (pargo data patches --check)"
        )
    elif not pictures.with_regions:
        why = "nothing says what is where in these pictures; give --patch-labels, a file of pargo data patches"
    elif not pictures.names:
        why = f"none of the {len(pictures)} pictures shows a thing that has a name; draw more --pictures"
    elif len(words) < 2:
        why = f"the models can spell {len(words)} of the {len(pictures.names)} names of things, and it takes 2 to choose from"
    else:
        return {}
    for part in settings.parts or ():
        if part in NEEDS_REGIONS:
            raise AlignmentError(f"--only {part}: {why}.")
    return {part: why for part in NEEDS_REGIONS if part in asked}


def _about(settings: Settings, pictures: Pictures, words: Sequence[str], missing: Mapping[str, str]) -> dict[str, Any]:
    source = settings.source
    return {
        "source": source.data,
        "split": source.split,
        "held_out": source.held_out,
        "patch_labels": None if source.patch_labels is None else str(source.patch_labels),
        "seed": source.seed,
        "pictures": len(pictures),
        "drawn": pictures.entries,
        "skipped": dict(pictures.skipped),
        "with_regions": pictures.with_regions,
        "of_another_shape": pictures.other_shape,
        "labels": _tallies(pictures),
        "words": list(words),
        "words_left_out": dict(missing),
    }


def _tallies(pictures: Pictures) -> dict[str, Any]:
    """What became of every line and region of the file of labels; nothing where there is none."""
    tallies = {} if pictures.labels is None else pictures.labels.tallies
    return {
        kind: {"entries": tally.entries, "used": tally.used, "skipped": dict(tally.skipped)} for kind, tally in tallies.items()
    }
