"""A multimodal model around parts that are trained already."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from pargo_mllm.configuration import ParGoConfig
from pargo_mllm.modeling import ParGoForConditionalGeneration


def assemble(
    config: ParGoConfig, vision_tower: PreTrainedModel, language_model: PreTrainedModel, seed: int = 0
) -> ParGoForConditionalGeneration:
    """The model of ``config`` with the weights of an encoder and of a causal language model; the projector is fresh.

    Args:
        vision_tower: of the class that ``config.vision_config`` names.
        language_model: with its head, of the class that ``config.text_config`` names.
        seed: of the projector's weights.
    """
    torch.manual_seed(seed)
    model = ParGoForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(vision_tower.state_dict())
    model.model.language_model.load_state_dict(language_model.base_model.state_dict())
    model.lm_head.load_state_dict(language_model.get_output_embeddings().state_dict())
    return model
