"""What trains and what is frozen."""

from __future__ import annotations

import torch

PARTS = ("vision_tower", "projector", "language_model", "lm_head")


def freeze_all_but(model: torch.nn.Module, *parts: str) -> None:
    """Freeze every parameter except those of ``parts``, each one of :data:`PARTS`."""
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"part={part!r} is unknown; it must be one of {', '.join(PARTS)}.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in parts)


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


def dtypes_of(model: torch.nn.Module, part: str) -> list[str]:
    """The dtypes of a part's parameters, of most of them first."""
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if part_of(name) == part:
            dtype = str(parameter.dtype).removeprefix("torch.")
            sizes[dtype] = sizes.get(dtype, 0) + parameter.numel()
    return sorted(sizes, key=lambda dtype: -sizes[dtype])


def describe_parts(model: torch.nn.Module) -> str:
    """A line a part: what is frozen and what trains, with counts and dtypes."""
    lines = []
    for part, (total, trained) in count_parameters(model).items():
        state = "frozen" if trained == 0 else "trains" if trained == total else f"trains {trained:,} of them"
        dtypes = " and ".join(dtypes_of(model, part))
        lines.append(f"  {part:<15} {total:>12,} parameters  {dtypes:<8}  {state}")
    return "\n".join(lines)
