"""Configurations of full size."""

from __future__ import annotations

from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedConfig

from pargo_mllm.configuration import ParGoConfig

# the tokenizer's 32,000 tokens and the image token
VICUNA_VOCABULARY = 32001


def clip_large_336() -> CLIPVisionConfig:
    """CLIP ViT-L/14 at 336 pixels: 576 patches."""
    return CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )


def vicuna_7b() -> LlamaConfig:
    """Vicuna-7B v1.5, its vocabulary grown by the image token."""
    return LlamaConfig(
        vocab_size=VICUNA_VOCABULARY,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        pad_token_id=0,
    )


def pargo_7b(vision_config: PreTrainedConfig | None = None) -> ParGoConfig:
    """The paper's size: an encoder with 576 patches, six layers of ParGo with 288 + 16 tokens, Vicuna-7B.

    Args:
        vision_config: CLIP ViT-L/14-336 when None.
    """
    vision = vision_config or clip_large_336()
    return ParGoConfig(
        vision_config=vision,
        text_config=vicuna_7b(),
        projector_config={"projector_type": "pargo"},
        image_token_id=VICUNA_VOCABULARY - 1,
    )
