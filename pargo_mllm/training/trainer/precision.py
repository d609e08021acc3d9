"""Which precision a device computes in, and which one weights are kept in."""

from __future__ import annotations

import torch


def computes_bf16(device: str) -> bool:
    """Whether bf16 has instructions of its own there; emulated it is slower than fp32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    # a torch that cannot tell runs in fp32
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def keep_trained_in_fp32(model: torch.nn.Module) -> None:
    """Bring what trains to fp32, in place: a step of an optimizer is often less than bf16 can add. All else stays as it is."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
