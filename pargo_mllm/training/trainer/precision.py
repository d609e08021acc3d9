"""Which precision weights are kept in."""

from __future__ import annotations

import torch


def keep_trained_in_fp32(model: torch.nn.Module) -> None:
    """Bring what trains to fp32, in place: a step of an optimizer is often less than bf16 can add. All else stays as it is."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
