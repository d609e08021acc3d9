"""Which precision a device computes in."""

from __future__ import annotations

import torch


def computes_bf16(device: str) -> bool:
    """Whether bf16 has instructions of its own there; emulated it is slower than fp32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    # a torch that cannot tell runs in fp32
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
