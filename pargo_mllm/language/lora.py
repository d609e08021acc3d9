"""LoRA on the language model alone, with the projector trained beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model

# matched against whole module names: the encoder and the projector have q_proj layers too
LANGUAGE_MODEL_LINEARS = r"model\.language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class LoraSettings:
    """Rank, alpha and dropout; the paper's rank is 256, the release's alpha 512 and dropout 0.05."""

    rank: int = 256
    alpha: int = 512
    dropout: float = 0.05
    target_modules: str = LANGUAGE_MODEL_LINEARS

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} must be at least 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1).")


def add_lora(model: torch.nn.Module, settings: LoraSettings) -> PeftModel:
    """Wrap a ParGoForConditionalGeneration: LoRA trains on the language model, the projector in full, nothing else.

    Raises:
        ValueError: if ``target_modules`` matches nothing.
    """
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        modules_to_save=["projector"],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)
