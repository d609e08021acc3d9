"""Settings of one training stage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainingArguments

from pargo_cli.keys import TrainingKeys
from pargo_mllm.training.trainer.engines import ENGINES, engine_arguments


@dataclass(frozen=True, kw_only=True)
class StageSettings(TrainingKeys):
    """How one stage trains on one machine: what a recipe leaves open is decided.

    Args:
        steps: optimizer steps.
        bf16: autocast to bfloat16; weights stay fp32.
        log_steps: steps between logs; None for twenty logs a stage.
        use_cpu: train on the CPU even where there is a GPU.
        processes: how many share the batch.

    Raises:
        ValueError: for values that cannot train.
    """

    steps: int
    bf16: bool = True
    log_steps: int | None = None
    use_cpu: bool = False
    processes: int = 1

    def __post_init__(self):
        counts = ("steps", "batch_size", "micro_batch_size", "save_steps", "log_steps", "eval_steps", "processes")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        if self.engine not in ENGINES:
            raise ValueError(f"engine={self.engine!r} is unknown; it must be one of {', '.join(ENGINES)}.")
        if self.batch_size % self.processes:
            raise ValueError(
                f"batch_size={self.batch_size} cannot be divided among {self.processes} processes; choose a multiple, or start "
                "another number of processes."
            )
        if self.batch_size % (self.micro_batch * self.processes):
            share = "" if self.processes == 1 else f" / {self.processes} processes"
            raise ValueError(
                f"micro_batch_size={self.micro_batch_size} does not divide batch_size={self.batch_size}{share}; choose a "
                "divisor."
            )
        for name in ("learning_rate", "projector_learning_rate", "adam_epsilon", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}={value} must be positive.")
        if not 0 <= self.min_learning_rate <= self.learning_rate:
            raise ValueError(f"min_learning_rate={self.min_learning_rate} must lie in [0, learning_rate={self.learning_rate}].")
        if self.min_learning_rate and self.schedule != "cosine":
            raise ValueError(f"min_learning_rate={self.min_learning_rate} is for schedule='cosine', not {self.schedule!r}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay} must not be negative.")
        if not 0 <= self.adam_beta2 < 1:
            raise ValueError(f"adam_beta2={self.adam_beta2} must lie in [0, 1).")
        if self.warmup_steps is not None and not 0 <= self.warmup_steps < self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} must lie in [0, steps={self.steps}).")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup} must lie in [0, 1): it is the share of the steps.")
        if self.schedule not in ("cosine", "warmup_stable_decay"):
            raise ValueError(f"schedule={self.schedule!r} is unknown; use 'cosine' or 'warmup_stable_decay'.")

    @property
    def micro_batch(self) -> int:
        """Pictures that a process computes at once."""
        return self.micro_batch_size or self.batch_size // self.processes

    @property
    def accumulation(self) -> int:
        """How many times in a row, an optimizer step."""
        return self.batch_size // (self.micro_batch * self.processes)

    def training_arguments(self, folder: Path, **changes) -> TrainingArguments:
        """The same for transformers' Trainer; it runs on the GPU where there is one, unless ``use_cpu``."""
        use_cpu = self.use_cpu or not torch.cuda.is_available()
        schedule, shape = self.schedule, dict[str, float]()
        if schedule == "warmup_stable_decay":
            shape = {"num_decay_steps": max(1, round(0.3 * self.steps))}
        elif self.min_learning_rate:
            schedule, shape = "cosine_with_min_lr", {"min_lr": self.min_learning_rate}
        arguments = {
            "output_dir": str(folder),
            "max_steps": self.steps,
            "per_device_train_batch_size": self.micro_batch,
            "gradient_accumulation_steps": self.accumulation,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": schedule,
            "lr_scheduler_kwargs": shape,
            "warmup_steps": round(self.warmup * self.steps) if self.warmup_steps is None else self.warmup_steps,
            "weight_decay": self.weight_decay,
            "adam_beta2": self.adam_beta2,
            "adam_epsilon": self.adam_epsilon,
            "max_grad_norm": self.max_grad_norm,
            "bf16": self.bf16,
            "use_cpu": use_cpu,
            "dataloader_pin_memory": not use_cpu,
            "seed": self.seed,
            "data_seed": self.seed,
            "remove_unused_columns": False,
            "save_strategy": "steps" if self.save_steps else "no",
            "save_steps": self.save_steps or self.steps,
            "logging_steps": self.log_steps or max(1, self.steps // 20),
            # a loss that is no number is shown, not replaced by a mean
            "logging_nan_inf_filter": False,
            "eval_strategy": "steps" if self.eval_steps else "no",
            "eval_steps": self.eval_steps,
            "per_device_eval_batch_size": self.micro_batch,
            "dataloader_num_workers": self.workers,
            "dataloader_persistent_workers": self.workers > 0,
            "dataloader_prefetch_factor": 4 if self.workers else None,
            # StageProgress and train() report
            "report_to": "none",
            "disable_tqdm": True,
            **engine_arguments(self.engine, self.bf16, use_cpu),
        }
        if self.gradient_checkpointing:
            arguments |= {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
        return TrainingArguments(**{**arguments, **changes})
