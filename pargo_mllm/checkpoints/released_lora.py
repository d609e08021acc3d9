"""The LoRA weights of a released checkpoint, folded into the language model they were trained on.

The release adapts InternLM2's ``wqkv``, one matrix for queries, keys and values: by group of query heads, the group's
queries, then its key head, then its value head. Where the language model has three matrices instead, the product of the two
LoRA factors is split the same way, which is exact.
"""

from __future__ import annotations

import re

import torch
from transformers import PreTrainedModel

from pargo_mllm.checkpoints.container import CheckpointError

_LORA = re.compile(r"llm_model\.base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")
# InternLM2's name -> ours
_SYNONYMS = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
}
_FUSED = "attention.wqkv"


def is_lora(name: str) -> bool:
    """Whether a released tensor is a LoRA factor of the language model."""
    return _LORA.fullmatch(name) is not None


@torch.no_grad()
def fold_released_lora(tensors: dict[str, torch.Tensor], language_model: PreTrainedModel, alpha: float) -> list[str]:
    """Add every LoRA update of ``tensors`` to the weights of ``language_model``, in place; computed in fp32.

    Args:
        tensors: released tensors by name; those that are no LoRA factors are ignored.
        language_model: a causal language model with the names of transformers' Llama.
        alpha: the release's 512; the update is ``alpha / rank * B @ A``.

    Returns:
        the names of the weights that changed.

    Raises:
        CheckpointError: if a factor is without its partner, or names a layer that the language model does not have.
    """
    factors: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _LORA.fullmatch(name):
            factors.setdefault(match[1], {})[match[2]] = tensor.float()
    changed = []
    for place, pair in sorted(factors.items()):
        if set(pair) != {"A", "B"}:
            raise CheckpointError(f"the checkpoint has only lora_{next(iter(pair))} of {place}; it is not complete.")
        down, up = pair["A"], pair["B"]
        if down.shape[0] != up.shape[1]:
            raise CheckpointError(f"lora_A of {place} has rank {down.shape[0]}, its lora_B {up.shape[1]}; they must be equal.")
        update = alpha / down.shape[0] * (up @ down)
        for module_name, part in _split(place, update, language_model):
            weight = _weight(language_model, module_name, place)
            if weight.shape != part.shape:
                raise CheckpointError(
                    f"the LoRA update of {place} has shape {list(part.shape)} and {module_name}.weight {list(weight.shape)}; "
                    "--llm must name the language model that the checkpoint was trained on."
                )
            weight.copy_(weight.float() + part)
            changed.append(f"{module_name}.weight")
    return changed


def _split(place: str, update: torch.Tensor, language_model: PreTrainedModel) -> list[tuple[str, torch.Tensor]]:
    if not place.endswith(_FUSED):
        for theirs, ours in _SYNONYMS.items():
            place = f"{place.removesuffix(theirs)}{ours}" if place.endswith(theirs) else place
        return [(place, update)]
    config = language_model.config
    group = config.num_attention_heads // config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rows = (config.num_attention_heads + 2 * config.num_key_value_heads) * width
    if update.shape[0] != rows:
        raise CheckpointError(
            f"{place} has {update.shape[0]} rows and the language model {rows} for queries, keys and values; --llm must name "
            "the language model that the checkpoint was trained on."
        )
    grouped = update.unflatten(0, (config.num_key_value_heads, group + 2, width))
    parts = {"q_proj": grouped[:, :group], "k_proj": grouped[:, group : group + 1], "v_proj": grouped[:, group + 1 :]}
    stem = f"{place.removesuffix(_FUSED)}self_attn"
    return [(f"{stem}.{name}", part.flatten(0, 2)) for name, part in parts.items()]


def _weight(language_model: PreTrainedModel, module_name: str, place: str) -> torch.Tensor:
    try:
        return language_model.get_parameter(f"{module_name}.weight")
    except AttributeError as error:
        raise CheckpointError(
            f"the checkpoint has LoRA weights of {place}, and the language model no {module_name}; --llm must name the "
            "language model that the checkpoint was trained on."
        ) from error
