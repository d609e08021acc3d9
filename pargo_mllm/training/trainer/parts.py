"""What trains and what is frozen."""

from __future__ import annotations

import torch

PARTS = ("vision_tower", "projector", "language_model", "lm_head")


def freeze_all_but(model: torch.nn.Module, part: str) -> None:
    """Freeze every parameter except those of ``part``, one of :data:`PARTS`."""
    if part not in PARTS:
        raise ValueError(f"part={part!r} is unknown; it must be one of {', '.join(PARTS)}.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) == part)


def part_of(parameter_name: str) -> str:
    """The part that a parameter of a ParGo model (bare or inside PEFT's) belongs to."""
    pieces = parameter_name.split(".")
    return next((part for part in PARTS if part in pieces), "other")


def count_parameters(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """For each part (all parameters, trained ones)."""
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        if "original_module" in name.split("."):
            # the untrained copy that PEFT keeps of a module it trains in full
            continue
        total, trained = counts.get(part_of(name), (0, 0))
        counts[part_of(name)] = (total + parameter.numel(), trained + parameter.numel() * parameter.requires_grad)
    return counts


def describe_parts(model: torch.nn.Module) -> str:
    """A line a part: what is frozen and what trains, with counts."""
    lines = []
    for part, (total, trained) in count_parameters(model).items():
        state = "frozen" if trained == 0 else "trains" if trained == total else f"trains {trained:,} of them"
        lines.append(f"  {part:<15} {total:>12,} parameters  {state}")
    return "\n".join(lines)
