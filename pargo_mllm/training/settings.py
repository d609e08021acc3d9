"""Settings of one training stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainingArguments


@dataclass(frozen=True)
class StageSettings:
    """How one stage trains. AdamW.

    Args:
        steps: optimizer steps.
        batch_size: pictures (or texts) a step.
        learning_rate: of every trained part that has no rate of its own.
        projector_learning_rate: of the projector, where it is not ``learning_rate``.
        warmup: share of the steps over which the rate rises.
        schedule: "cosine", or "warmup_stable_decay" with its last 30 % for the decay.
        weight_decay, adam_beta2, max_grad_norm: AdamW and gradient clipping.
        bf16: autocast to bfloat16; weights stay fp32.
        use_cpu: train on the CPU even where there is a GPU.
        seed: of the data's order and of what is initialised in this stage.

    Raises:
        ValueError: for values that cannot train.
    """

    steps: int
    batch_size: int
    learning_rate: float
    projector_learning_rate: float | None = None
    warmup: float = 0.05
    schedule: str = "cosine"
    weight_decay: float = 0.01
    adam_beta2: float = 0.999
    max_grad_norm: float = 1.0
    bf16: bool = True
    use_cpu: bool = False
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup} must lie in [0, 1): it is the share of the steps.")
        if self.schedule not in ("cosine", "warmup_stable_decay"):
            raise ValueError(f"schedule={self.schedule!r} is unknown; use 'cosine' or 'warmup_stable_decay'.")

    def training_arguments(self, folder: Path, **changes) -> TrainingArguments:
        """The same for transformers' Trainer; it runs on the GPU where there is one, unless ``use_cpu``."""
        use_cpu = self.use_cpu or not torch.cuda.is_available()
        decay = {"num_decay_steps": max(1, round(0.3 * self.steps))} if self.schedule == "warmup_stable_decay" else {}
        arguments = {
            "output_dir": str(folder),
            "max_steps": self.steps,
            "per_device_train_batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": self.schedule,
            "lr_scheduler_kwargs": decay,
            "warmup_steps": round(self.warmup * self.steps),
            "weight_decay": self.weight_decay,
            "adam_beta2": self.adam_beta2,
            "max_grad_norm": self.max_grad_norm,
            "bf16": self.bf16,
            "use_cpu": use_cpu,
            "dataloader_pin_memory": not use_cpu,
            "seed": self.seed,
            "data_seed": self.seed,
            "remove_unused_columns": False,
            "save_strategy": "no",
            "logging_steps": max(1, self.steps // 20),
            "report_to": "none",
            "disable_tqdm": True,
        }
        return TrainingArguments(**{**arguments, **changes})
