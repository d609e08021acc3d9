"""What a run needs beside settings that are right by themselves: checked before anything is loaded, in a dry run too."""

from __future__ import annotations

import os
from typing import Any

import torch

from pargo_mllm.configuration import PROJECTORS, ParGoConfig
from pargo_mllm.positions import max_positions
from pargo_mllm.training.recipes import Recipe, RecipeError

# processes that read data, for each core: more of them only wait for each other, and each is a process with its own memory
READERS_A_CORE = 4
GIB = 2**30


def check_projector_options(given: dict[str, Any], projector_type: str) -> None:
    """Refuse options that this type of projector does not read.

    Raises:
        RecipeError: for such an option.
    """
    reads = PROJECTORS[projector_type].reads
    # refused already unless it is 0, which all of them have
    for name in [] if reads is None else given.keys() - {"projector_type", "attention_dropout", *reads}:
        assert reads is not None
        raise RecipeError(
            f"projector: {name}={given[name]!r} changes nothing: {projector_type} does not read it; leave it out. It reads "
            f"{', '.join(sorted(reads))}."
        )


def check_lengths(max_length: int, config: ParGoConfig, tiles: int) -> None:
    """Refuse examples longer than the language model's positions, and room for less than a picture.

    Args:
        max_length: tokens of an example at most.
        tiles: those of the largest picture.

    Raises:
        RecipeError: with both numbers.
    """
    positions = max_positions(config.text_config)
    if positions is not None and max_length > positions:
        raise RecipeError(
            f"max_length={max_length} exceeds the {positions} positions of the language model (max_position_embeddings, with "
            f"its scaling); give at most max_length={positions}."
        )
    each, together = config.num_image_tokens, config.projector_config.reads_tiles_together
    picture = each if together else each * tiles
    if max_length <= picture:
        made = f"{each} tokens of each of its {tiles} tiles" if tiles > 1 and not together else "tokens of the projector"
        raise RecipeError(
            f"max_length={max_length} leaves no room beside a picture, which takes {picture} ({made}); give at least "
            f"max_length={picture + 1}, and what the text needs."
        )


def workers_problem(recipe: Recipe) -> str | None:
    """Why so many processes cannot read data on this machine, or None."""
    training = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = READERS_A_CORE * cores
    if recipe.workers * training <= most:
        return None
    beside = "" if training == 1 else f" for each of {training} processes"
    return (
        f"workers={recipe.workers}{beside} are too many for {cores} cores; give at most --workers "
        f"{max(1, most // training)}, or 0 to read without any."
    )


def memory_problem(needed: int, device: str) -> str | None:
    """What to say where a plan takes more memory than this machine's device has, all processes' shares of a CPU together."""
    if device == "cuda":
        there = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        needed *= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if needed <= there:
        return None
    what = "this GPU" if device == "cuda" else "this machine"
    return (
        f"the plan takes about {needed / GIB:.1f} GiB and {what} has {there / GIB:.1f}; more GPUs under --engine fsdp2 "
        "divide weights and optimizer, --micro-batch-size 1 and --gradient-checkpointing true shrink activations"
    )
