"""How many floating-point operations a training step needs, for the share of the hardware's speed that it reaches.

What is counted is what the mathematics of the step needs (the "model FLOPs" of Chowdhery et al., 2022, PaLM, appendix B):
layers computed again under gradient checkpointing, padding, and scores that a mask hides do not count. A multiply and an add
are two.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

import pargo_kernels.cascaded_partial_attention
import pargo_kernels.partial_global_attention  # noqa: F401 (both register their ops)
from pargo_kernels.intervals import window_bounds
from pargo_mllm.configuration import ParGoConfig
from pargo_mllm.data.feeding.contents import BatchContents
from pargo_mllm.language.lora import expert_weights, linear_maps
from pargo_mllm.modeling import ParGoForConditionalGeneration

# a forward; gradients of the inputs and of the weights take as much each
TRAINED, PASSED_THROUGH = 3, 2

# what families call the number of experts, and of those that a token goes through
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "moe_k", "moe_topk")

# FLOP/s of dense bf16 tensor cores, from the makers' data sheets; the first name found in the device's name counts
PEAKS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "MI300X": 1307e12,
}


def peak_flops(device: torch.device) -> float | None:
    """bf16 FLOP/s of a device; None where it is not known, as for CPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAKS.items() if known in name), None)


class StepFlops:
    """Counts the operations of training steps from what their batches hold.

    Args:
        config: of the model.
        lora_parameters: weights of LoRA that a token of the language model meets (:func:`weights_a_token`).
        whole: the language model trains itself, and its head.
    """

    def __init__(self, config: ParGoConfig, lora_parameters: int, whole: bool = False):
        self.config = config
        with torch.device("meta"):
            # the counter hangs hooks on whatever wants a gradient, learned tokens themselves too
            model = ParGoForConditionalGeneration(config).requires_grad_(False)
        text = config.text_config
        weights: dict[str, torch.Tensor] = {**expert_weights(model)}
        weights |= {f"{name}.weight": module.weight for name, module in linear_maps(model).items()}
        # the frozen weights pass gradients on, LoRA's have gradients of their own
        work = TRAINED if whole else PASSED_THROUGH
        self._per_token = 2 * (work * weights_a_token(config, weights) + TRAINED * lora_parameters)
        self._per_label = 2 * work * text.hidden_size * text.vocab_size
        # scores and their product with the values, and twice that for their gradients
        width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
        self._per_pair = TRAINED * 2 * 2 * width * text.num_hidden_layers
        self._model = model

    def step(self, contents: BatchContents) -> float:
        """Operations of forward and backward on a batch."""
        seen = sum(count * self.picture(tiles, contents.encoded) for tiles, count in contents.pictures.items())
        return contents.tokens * self._per_token + contents.pairs * self._per_pair + contents.labels * self._per_label + seen

    def picture(self, tiles: int, encoded: bool) -> int:
        """Operations for one picture of so many tiles: the encoder's, unless it ran before, and the projector's."""
        return _picture(self._model, tiles, encoded)


def weights_a_token(config: ParGoConfig, weights: Mapping[str, torch.Tensor]) -> int:
    """How many weights of linear maps a token meets, by their names: of experts, those that the router chooses for it."""
    text = config.text_config
    chosen, there = (next((n for name in names if (n := getattr(text, name, None))), 1) for names in (_CHOSEN, _EXPERTS))
    whole = sum(weight.numel() for name, weight in weights.items() if "experts" not in name.split("."))
    return whole + sum(weight.numel() for name, weight in weights.items() if "experts" in name.split(".")) * chosen // there


@lru_cache(maxsize=256)
def _picture(model: ParGoForConditionalGeneration, tiles: int, encoded: bool) -> int:
    config, vision = model.config, model.config.vision_config
    pixels = torch.empty(tiles, vision.num_channels, vision.image_size, vision.image_size, device="meta")
    with torch.no_grad():
        with FlopCounterMode(display=False) as encoder:
            features = model.model.get_vision_features(pixels)
        together = config.projector_config.reads_tiles_together
        features = features.flatten(0, 1)[None] if together else features
        with FlopCounterMode(display=False, custom_mapping=_ATTENTIONS) as projector:
            model.model.projector(features)
    return (not encoded) * encoder.get_total_flops() + TRAINED * projector.get_total_flops()


def _partial_global_flops(query, key, value, cu_seqlens, num_partial, *_, out_shape=None, **__) -> int:
    batch, heads, rows, width = query
    # each key is seen by one partial row and by every global row
    cells = key[2] * (bool(num_partial) + rows - num_partial)
    return 4 * batch * heads * width * cells


def _cascaded_flops(query, key, value, window, num_partial, edge, *_, out_shape=None, **__) -> int:
    batch, heads, rows, width = query
    bounds = window_bounds(num_partial, window, edge) if num_partial else torch.zeros(0, 2)
    cells = int((bounds[:, 1] - bounds[:, 0]).sum()) + (rows - num_partial) ** 2
    return 4 * batch * heads * width * cells


_ATTENTIONS = {
    torch.ops.pargo_kernels.partial_global_attention_forward: _partial_global_flops,
    torch.ops.pargo_kernels.cascaded_partial_attention_forward: _cascaded_flops,
}
