"""What ends a run before it does harm: gradients that are no numbers, a disk that takes no more."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback

from pargo_mllm.errors import UserError
from pargo_mllm.training.trainer.checkpoints import ASIDE, newest_step


class TrainingStopped(UserError, RuntimeError):
    """Training cannot go on; the message says at which step, why, and what is safe."""


class FiniteGradients(TrainerCallback):
    """Stops before a gradient with NaN or infinity reaches the weights.

    Clipping has gone before and spreads what is not finite over all gradients of all processes: every process stops.
    """

    def __init__(self, checkpoints: Path):
        self.checkpoints = checkpoints

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        """Look at the gradients of this step."""
        gradients = [
            parameter.grad for group in optimizer.param_groups for parameter in group["params"] if parameter.grad is not None
        ]
        local = [gradient.to_local() if hasattr(gradient, "to_local") else gradient for gradient in gradients]
        if local and not torch.isfinite(torch.nn.utils.get_total_norm(local)):
            raise TrainingStopped(not_finite(state.global_step + 1, "the gradient", self.checkpoints))


@contextmanager
def writing(checkpoints: Path, step: int) -> Iterator[None]:
    """Says what is safe when a checkpoint cannot be written; what was written of it is removed to make room.

    Raises:
        TrainingStopped: for what the disk refused.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch.save reports a full disk in words of its own
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        shutil.rmtree(checkpoints / ASIDE, ignore_errors=True)
        raise TrainingStopped(
            f"step {step}: its checkpoint cannot be written: {' '.join(str(error).split())}. {_safe_so_far(checkpoints)} Make "
            "room, and the same command goes on."
        ) from error


def not_finite(step: int, what: str, checkpoints: Path) -> str:
    """What to say of a step that cannot be used."""
    return (
        f"step {step}: {what} holds NaN or infinity, and nothing of it is kept. {_safe_so_far(checkpoints)} The same settings "
        "would meet it again: try a lower learning_rate, or bf16: false, with another --output."
    )


def _safe_so_far(checkpoints: Path) -> str:
    step = newest_step(checkpoints)
    return "There is no checkpoint yet." if step is None else f"The newest checkpoint is of step {step}."
