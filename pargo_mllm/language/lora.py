"""LoRA on the language model alone, with the projector trained beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model

LANGUAGE_MODEL = "model.language_model."


@dataclass(frozen=True)
class LoraSettings:
    """Rank, alpha and dropout; the paper's rank is 256, the release's alpha 512 and dropout 0.05.

    ``target_modules`` is a regular expression that whole module names must match; None for every linear map of the language
    model, whatever its family calls them.
    """

    rank: int = 256
    alpha: int = 512
    dropout: float = 0.05
    target_modules: str | None = None

    def __post_init__(self):
        for name in ("rank", "alpha"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1).")
        if self.target_modules is not None:
            try:
                re.compile(self.target_modules)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"target_modules={self.target_modules!r} is no regular expression: {error}.") from error


def language_model_linears(model: torch.nn.Module) -> str:
    """A regular expression for the linear maps of a ParGo model's language model, and for nothing else.

    Encoder and projector have layers of the same names: the expression is anchored to the language model.

    Raises:
        ValueError: if the language model has no linear map.
    """
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if name.startswith(LANGUAGE_MODEL) and isinstance(module, torch.nn.Linear)
    }
    if not names:
        raise ValueError(f"{type(model).__name__} has no linear map below {LANGUAGE_MODEL[:-1]}; LoRA is for ParGo models.")
    return rf"{re.escape(LANGUAGE_MODEL)}.*\.({'|'.join(sorted(names))})"


def add_lora(model: torch.nn.Module, settings: LoraSettings) -> PeftModel:
    """Wrap a ParGoForConditionalGeneration: LoRA trains on the language model, the projector in full, nothing else.

    Raises:
        ValueError: if ``target_modules`` matches nothing, or a module outside of the language model.
    """
    targets = settings.target_modules or language_model_linears(model)
    outside = [name for name, _ in model.named_modules() if re.fullmatch(targets, name) and not name.startswith(LANGUAGE_MODEL)]
    if outside:
        raise ValueError(
            f"target_modules={targets!r} matches {outside[0]} and {len(outside) - 1} more outside of the language model; begin "
            f"it with {re.escape(LANGUAGE_MODEL)!r}."
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        modules_to_save=["projector"],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)
