"""What ends a run before it does harm: gradients that are no numbers."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainerCallback

from pargo_mllm.training.checkpoints import TrainingStopped, safe_so_far


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
            raise TrainingStopped(
                f"step {state.global_step + 1}: the gradient holds NaN or infinity, and was not applied. "
                f"{safe_so_far(self.checkpoints)} The same settings would meet it again: try a lower learning_rate, or bf16: "
                "false, with another --output."
            )
