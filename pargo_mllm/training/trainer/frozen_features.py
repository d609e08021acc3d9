"""The frozen encoder runs once: its features of every picture, exactly what it would give in the training step."""

from __future__ import annotations

import torch

from pargo_mllm.modeling import ParGoModel


def frozen_features(model: ParGoModel, pixels: torch.Tensor, bf16: bool) -> torch.Tensor:
    """What the frozen encoder gives for pixels ``[images, 3, s, s]``: ``[images, n_v, c]``, without gradient.

    Args:
        bf16: under autocast, as training runs.
    """
    device = model.device
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        features = model.get_vision_features(pixels.to(device))
    # a tensor of inference mode cannot be kept for a backward pass
    return features.clone()
