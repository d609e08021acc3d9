"""LoRA on the language model alone, with the projector trained beside it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

LANGUAGE_MODEL = "model.language_model."
# the kinds that weights of a language model are told by
KINDS = ("attention", "feed-forward", "experts", "router", "embeddings", "others")
# modules that choose among experts
ROUTERS = frozenset({"gate", "router"})
FEED_FORWARD = ("mlp", "feed_forward", "ffn", "expert", "fc1", "fc2", "moe")


@dataclass(frozen=True)
class LoraSettings:
    """Rank, alpha and dropout; the paper's rank is 256, the release's alpha 512 and dropout 0.05.

    ``target_modules`` are names of layers of the language model, such as ``["q_proj", "v_proj"]`` or ``["self_attn.o_proj"]``;
    or a regular expression that whole module names must match; None for every linear map of the language model and every
    expert of a mixture, whatever its family calls them, but no router.
    """

    rank: int = 256
    alpha: int = 512
    dropout: float = 0.05
    target_modules: str | tuple[str, ...] | list[str] | None = None

    def __post_init__(self):
        for name in ("rank", "alpha"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1).")
        targets = self.target_modules
        if isinstance(targets, (list, tuple)):
            if not targets or not all(isinstance(name, str) and name for name in targets):
                raise ValueError(f"target_modules={list(targets)} must name at least one layer, such as [q_proj, v_proj].")
            object.__setattr__(self, "target_modules", tuple(targets))
        elif targets is not None:
            try:
                re.compile(targets)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"target_modules={targets!r} is no regular expression: {error}.") from error


@dataclass(frozen=True)
class Targets:
    """What LoRA is put on: modules whose whole names match a regular expression, and names of parameters that are experts."""

    modules: str | None
    experts: tuple[str, ...]
    transposed: bool


def linear_maps(model: nn.Module) -> dict[str, nn.Linear | Conv1D]:
    """The linear maps of a ParGo model's language model, by name: torch's, and GPT-2's with transposed weights."""
    return {
        name: module
        for name, module in model.named_modules()
        if name.startswith(LANGUAGE_MODEL) and isinstance(module, (nn.Linear, Conv1D)) and "Router" not in type(module).__name__
    }


def expert_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The experts of a ParGo model's language model that are no modules, but slices ``[experts, …, …]`` of parameters."""
    return {
        f"{name}.{own}": parameter
        for name, module in model.named_modules()
        if name.startswith(LANGUAGE_MODEL) and "expert" in type(module).__name__.lower()
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.dim() == 3 and parameter.is_floating_point()
    }


def lora_targets(model: nn.Module, asked: str | tuple[str, ...] | list[str] | None = None) -> Targets:
    """What ``target_modules`` of :class:`LoraSettings` stand for in a ParGo model. Encoder and projector have layers of the
    same names: names are anchored to the language model.

    Raises:
        ValueError: if the language model has no linear map, or something that is asked for is not there, or is outside of it.
    """
    maps, experts = linear_maps(model), expert_weights(model)
    if not maps:
        raise ValueError(f"{type(model).__name__} has no linear map below {LANGUAGE_MODEL[:-1]}; LoRA is for ParGo models.")
    if isinstance(asked, str):
        return _matched(model, asked, maps, experts)
    but = ""
    if asked is None and experts:
        maps = {name: module for name, module in maps.items() if not ROUTERS.intersection(name.split("."))}
        but = rf"(?!(?:.*\.)?(?:{'|'.join(sorted(ROUTERS))})(?:\.|$))"
    names = sorted({name.rsplit(".", 1)[-1] for name in maps}) if asked is None else list(dict.fromkeys(asked))
    chosen = [name for name in experts if asked is None or any(_ends(name, end) for end in names)]
    used = [end for end in names if any(_ends(name, end) for name in maps)]
    if missing := [end for end in names if end not in used and not any(_ends(name, end) for name in experts)]:
        known = sorted({name.rsplit(".", 1)[-1] for name in (*maps, *experts)})
        near = get_close_matches(missing[0], known, n=1)
        raise ValueError(
            f"target_modules: the language model has no linear map {missing[0]!r}"
            + (f"; {near[0]}?" if near else f"; it has {', '.join(known)}.")
        )
    ends = "|".join(map(re.escape, used))
    found = [module for name, module in maps.items() if any(_ends(name, end) for end in used)]
    expression = rf"{re.escape(LANGUAGE_MODEL)}{but}(?:.*\.)?(?:{ends})" if used else None
    return Targets(expression, tuple(chosen), bool(found) and all(isinstance(module, Conv1D) for module in found))


def _ends(name: str, end: str) -> bool:
    return name.endswith(f".{end}")


def _matched(model: nn.Module, expression: str, maps: Mapping[str, nn.Module], experts: dict[str, nn.Parameter]) -> Targets:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ValueError(f"target_modules={expression!r} is no regular expression: {error}.") from error
    found = [name for name, _ in model.named_modules() if pattern.fullmatch(name)]
    chosen = tuple(name for name in experts if pattern.fullmatch(name))
    if outside := [name for name in found if not name.startswith(LANGUAGE_MODEL)]:
        raise ValueError(
            f"target_modules={expression!r} matches {outside[0]} and {len(outside) - 1} more outside of the language model; "
            f"begin it with {re.escape(LANGUAGE_MODEL)!r}."
        )
    if not found and not chosen:
        raise ValueError(
            f"target_modules={expression!r} matches no module: it must match whole names, such as {next(iter(maps))}; give a "
            "list for names of layers alone."
        )
    transposed = bool(found) and all(isinstance(maps.get(name), Conv1D) for name in found)
    return Targets(expression if found else None, chosen, transposed)


def add_lora(model: nn.Module, settings: LoraSettings) -> PeftModel:
    """Wrap a ParGoForConditionalGeneration: LoRA trains on the language model, the projector in full, nothing else.

    What trains is in fp32; all else keeps its dtype. Experts have no dropout: their input is not LoRA's alone.

    Raises:
        ValueError: if ``target_modules`` matches nothing, or a module outside of the language model.
    """
    targets = lora_targets(model, settings.target_modules)
    # PEFT copies it, and the copy is what trains
    model.get_submodule("model.projector").float()
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        # PEFT refuses experts with dropout: what linear maps have of it is put in below
        lora_dropout=0.0 if targets.experts else settings.dropout,
        target_modules=targets.modules or [],
        target_parameters=list(targets.experts) or None,
        fan_in_fan_out=targets.transposed,
        modules_to_save=["projector"],
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    if targets.experts and settings.dropout:
        for module in _lora_layers(adapted):
            if not isinstance(module, ParamWrapper):
                for name in module.lora_dropout:
                    module.lora_dropout[name] = nn.Dropout(settings.dropout)
    return adapted


def fold_in(adapted: PeftModel) -> Any:
    """The model with LoRA folded in: each weight's sum is taken in fp32 and rounded once, to the weight's own dtype.

    Raises:
        ValueError: if a sum is no finite number.
    """
    for module in _lora_layers(adapted):
        weight = _adapted_weight(module)
        dtype = weight.dtype
        weight.data = weight.data.float()
        module.merge(safe_merge=True)
        weight = _adapted_weight(module)
        weight.data = weight.data.to(dtype)
    with warnings.catch_warnings():
        # all of it is merged already
        warnings.simplefilter("ignore")
        return adapted.merge_and_unload()  # type: ignore[operator]


def count_adapted(adapted: nn.Module) -> dict[str, tuple[int, int]]:
    """For each of :data:`KINDS` that a language model has: (its weights, those of them that LoRA is on)."""
    on = {id(_adapted_weight(module)) for module in _lora_layers(adapted)}
    counts: dict[str, tuple[int, int]] = {}
    embeddings = {id(p) for module in adapted.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    for name, weight in adapted.named_parameters():
        if LANGUAGE_MODEL not in name or ".lora_" in name:
            continue
        kind = "embeddings" if id(weight) in embeddings else _kind(name, weight)
        total, reached = counts.get(kind, (0, 0))
        counts[kind] = (total + weight.numel(), reached + weight.numel() * (id(weight) in on))
    return {kind: counts[kind] for kind in KINDS if kind in counts}


def describe_adapted(adapted: nn.Module) -> str:
    """What LoRA is on, and what stays as it is: a line a kind."""
    counts = count_adapted(adapted)
    total, reached = (sum(count[index] for count in counts.values()) for index in (0, 1))
    lines = [f"  LoRA is on {reached / total:.1%} of the language model's {total:,} weights"]
    for kind, (weights, on) in counts.items():
        state = "frozen" if on == 0 else "adapted" if on == weights else f"{on:,} of them adapted"
        lines.append(f"    {kind:<13} {weights:>14,} weights, {weights / total:>6.1%}  {state}")
    if any(isinstance(module, ParamWrapper) for module in _lora_layers(adapted)):
        lines[0] += "; experts have no dropout"
    return "\n".join(lines)


def _kind(name: str, weight: torch.Tensor) -> str:
    pieces = name.removeprefix("base_model.model.").split(".")[2:-1]
    if ROUTERS.intersection(pieces):
        return "router"
    if weight.dim() < 2:
        return "others"
    if any("attn" in piece or "attention" in piece for piece in pieces):
        return "attention"
    if "experts" in pieces:
        return "experts"
    return "feed-forward" if any(word in piece for piece in pieces for word in FEED_FORWARD) else "others"


def _lora_layers(adapted: nn.Module) -> Iterator[LoraLayer]:
    for module in list(adapted.modules()):
        if isinstance(module, LoraLayer):
            yield module


def _adapted_weight(module: LoraLayer) -> nn.Parameter:
    weight: Any = module.get_param() if isinstance(module, ParamWrapper) else module.get_base_layer().weight
    return weight
