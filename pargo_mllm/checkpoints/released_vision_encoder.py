"""The vision encoder of the released checkpoint, EVA-02-CLIP with ``ln_vision``, in this package's form."""

from __future__ import annotations

import math
import re

import torch

from pargo_mllm.checkpoints.container import CheckpointError, fill, plain_tensors
from pargo_mllm.vision.eva02 import Eva02VisionConfig, Eva02VisionModel, rotary_table

# names in the release, below visual_encoder.blocks.{i} -> names here, below layers.{i}
_LAYER_NAMES = {
    "norm1.weight": "attention_norm.weight",
    "norm1.bias": "attention_norm.bias",
    "attn.q_proj.weight": "attention.q_proj.weight",
    "attn.q_bias": "attention.q_proj.bias",
    "attn.k_proj.weight": "attention.k_proj.weight",
    "attn.v_proj.weight": "attention.v_proj.weight",
    "attn.v_bias": "attention.v_proj.bias",
    "attn.inner_attn_ln.weight": "attention.inner_norm.weight",
    "attn.inner_attn_ln.bias": "attention.inner_norm.bias",
    "attn.proj.weight": "attention.o_proj.weight",
    "attn.proj.bias": "attention.o_proj.bias",
    "norm2.weight": "mlp_norm.weight",
    "norm2.bias": "mlp_norm.bias",
    "mlp.w1.weight": "mlp.gate_proj.weight",
    "mlp.w1.bias": "mlp.gate_proj.bias",
    "mlp.w2.weight": "mlp.up_proj.weight",
    "mlp.w2.bias": "mlp.up_proj.bias",
    "mlp.ffn_ln.weight": "mlp.inner_norm.weight",
    "mlp.ffn_ln.bias": "mlp.inner_norm.bias",
    "mlp.w3.weight": "mlp.down_proj.weight",
    "mlp.w3.bias": "mlp.down_proj.bias",
}
_NAMES = {
    "visual_encoder.cls_token": "class_token",
    "visual_encoder.pos_embed": "position_embeddings",
    "visual_encoder.patch_embed.proj.weight": "patch_embedding.weight",
    "visual_encoder.patch_embed.proj.bias": "patch_embedding.bias",
    "ln_vision.weight": "ln_vision.weight",
    "ln_vision.bias": "ln_vision.bias",
}
_RELEASED_LAYER_NAMES = {new: old for old, new in _LAYER_NAMES.items()}
_RELEASED_NAMES = {new: old for old, new in _NAMES.items()}
_LAYER = re.compile(r"visual_encoder\.blocks\.(\d+)\.(.+)")
_ROTARY = re.compile(r"visual_encoder\.(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)")
# half precision keeps three digits of a cosine; another grid or base is off by tenths
_ROTARY_TOLERANCE = 1e-2


def convert_released_vision_encoder(
    state_dict: dict[str, torch.Tensor], num_attention_heads: int, image_size: int
) -> Eva02VisionModel:
    """Build the encoder of a released checkpoint.

    Depth and widths are read from the tensors; heads and the pictures' size are not in them. The encoder's own final norm
    and its CLIP head are not used by ParGo.

    Args:
        state_dict: the released tensors, or a whole model's: names that are no encoder's are ignored. Containers
            ``{"state_dict": …}`` and ``{"model": …}`` and a ``module.`` prefix are understood.
        num_attention_heads: 16 in EVA-02-CLIP-L.
        image_size: side of the pictures in pixels, 336 in EVA-02-CLIP-L/14-336.

    Returns:
        the encoder in evaluation mode: pixels ``[B, 3, s, s]`` to ``last_hidden_state`` ``[B, n_v, C]``, the released
        ``ln_vision`` features without the class token.

    Raises:
        CheckpointError: a ValueError; if a tensor is missing, or the tensors do not fit the arguments.
    """
    tensors = plain_tensors(state_dict)
    renamed = {new: tensor for name, tensor in tensors.items() if (new := _new_name(name)) and not _ROTARY.fullmatch(name)}
    config = _configuration(renamed, num_attention_heads, image_size)
    with torch.device("meta"):
        encoder = Eva02VisionModel(config)
    fill(encoder, renamed, "vision encoder", _released_name)
    _check_rotary(config, tensors)
    return encoder.eval()


def used_by_encoder(name: str) -> bool:
    """Whether a released tensor enters the encoder, or is compared with what the encoder computes itself."""
    return _new_name(name) is not None


def _new_name(name: str) -> str | None:
    match = _LAYER.fullmatch(name)
    if match and match[2] in _LAYER_NAMES:
        return f"layers.{match[1]}.{_LAYER_NAMES[match[2]]}"
    return name if _ROTARY.fullmatch(name) else _NAMES.get(name)


def _released_name(name: str) -> str:
    match = re.fullmatch(r"layers\.(\d+)\.(.+)", name)
    if match:
        return f"visual_encoder.blocks.{match[1]}.{_RELEASED_LAYER_NAMES[match[2]]}"
    return _RELEASED_NAMES[name]


def _configuration(tensors: dict[str, torch.Tensor], num_attention_heads: int, image_size: int) -> Eva02VisionConfig:
    for name, released in (
        ("patch_embedding.weight", "visual_encoder.patch_embed.proj.weight"),
        ("position_embeddings", "visual_encoder.pos_embed"),
        ("layers.0.mlp.gate_proj.weight", "visual_encoder.blocks.0.mlp.w1.weight"),
    ):
        if name not in tensors:
            raise CheckpointError(f"the checkpoint has no tensor {released!r}; it holds no released vision encoder.")
    hidden_size, num_channels, patch_size, _ = tensors["patch_embedding.weight"].shape
    positions = tensors["position_embeddings"].shape[1] - 1
    if image_size % patch_size or (image_size // patch_size) ** 2 != positions:
        raise CheckpointError(
            f"image_size={image_size} gives no grid of the {positions} positions that the checkpoint has for patches of "
            f"{patch_size} pixels; use image_size={math.isqrt(positions) * patch_size}."
        )
    layers = {int(match[1]) for name in tensors if (match := re.match(r"layers\.(\d+)\.", name))}
    return Eva02VisionConfig(
        hidden_size=hidden_size,
        intermediate_size=tensors["layers.0.mlp.gate_proj.weight"].shape[0],
        num_hidden_layers=max(layers) + 1,
        num_attention_heads=num_attention_heads,
        num_channels=num_channels,
        image_size=image_size,
        patch_size=patch_size,
    )


def _check_rotary(config: Eva02VisionConfig, tensors: dict[str, torch.Tensor]) -> None:
    tables = dict(zip(("cos", "sin"), rotary_table(config), strict=True))
    for name, stored in tensors.items():
        match = _ROTARY.fullmatch(name)
        if not match:
            continue
        expected = tables[match[2]]
        if stored.shape != expected.shape or (stored.float() - expected).abs().max() > _ROTARY_TOLERANCE:
            raise CheckpointError(
                f"{name} of shape {list(stored.shape)} is not the rotary table of num_attention_heads="
                f"{config.num_attention_heads} and image_size={config.image_size} ({list(expected.shape)}); check both."
            )
