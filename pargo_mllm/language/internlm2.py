"""InternLM2 without remote code: a Llama whose checkpoints name their tensors otherwise and keep queries, keys and values
in one matrix.

Importing the module registers the classes with transformers' Auto classes. InternLM2's folders load with
``AutoModelForCausalLM.from_pretrained`` and are saved under InternLM2's names again.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming
from transformers.tokenization_utils_tokenizers import TokenizersBackend


class InternLM2Config(LlamaConfig):
    """A :class:`LlamaConfig` with InternLM2's defaults (7B).

    Args:
        bias: InternLM2's name for biases in all four attention projections.
    """

    model_type = "internlm2"

    vocab_size: int = 92544
    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-5
    pad_token_id: int | None = 2
    bias: bool = False

    def __post_init__(self, **kwargs):
        self.attention_bias = self.attention_bias or self.bias
        super().__post_init__(**kwargs)


class InternLM2Model(LlamaModel):
    """The decoder without a head."""

    config_class = InternLM2Config


class InternLM2ForCausalLM(LlamaForCausalLM):
    """The decoder with its language-modelling head."""

    config_class = InternLM2Config


class SplitGroups(ConversionOps):
    """``wqkv`` to queries, keys and values.

    Its rows are ``[kv_heads, group + 2, head_dim]``: behind the ``group`` query heads that share a key stand the key and
    the value.
    """

    @torch.no_grad()
    def convert(self, input_dict: dict[str, Any], source_patterns, target_patterns, **kwargs) -> dict[str, Any]:
        """One tensor ``[rows, ...]`` under its pattern to three under theirs."""
        (fused,) = (_single(value) for value in input_dict.values())
        text = kwargs["config"].get_text_config()
        group = text.num_attention_heads // text.num_key_value_heads
        heads = fused.reshape(text.num_key_value_heads, group + 2, text.head_dim, *fused.shape[1:])
        pieces = heads[:, :group], heads[:, -2], heads[:, -1]
        return {
            pattern: piece.reshape(-1, *fused.shape[1:]).contiguous()
            for pattern, piece in zip(target_patterns, pieces, strict=True)
        }

    @property
    def reverse_op(self) -> ConversionOps:
        """For saving."""
        return FuseGroups()


class FuseGroups(ConversionOps):
    """Queries, keys and values to ``wqkv``: the inverse of :class:`SplitGroups`."""

    @torch.no_grad()
    def convert(self, input_dict: dict[str, Any], source_patterns, target_patterns, **kwargs) -> dict[str, Any]:
        """Three tensors ``[rows, ...]`` under their patterns to one."""
        text = kwargs["config"].get_text_config()
        query, key, value = (_single(input_dict[pattern]) for pattern in source_patterns)
        heads = [piece.reshape(text.num_key_value_heads, -1, text.head_dim, *piece.shape[1:]) for piece in (query, key, value)]
        return {target_patterns[0]: torch.cat(heads, dim=1).reshape(-1, *query.shape[1:]).contiguous()}

    @property
    def reverse_op(self) -> ConversionOps:
        """For loading."""
        return SplitGroups()


def _single(tensors: Any) -> torch.Tensor:
    return tensors[0] if isinstance(tensors, list) else tensors


_MAPPING: list[WeightRenaming | WeightConverter] = [
    WeightRenaming("tok_embeddings", "embed_tokens"),
    WeightRenaming("attention.wo", "self_attn.o_proj"),
    WeightRenaming("feed_forward.w1", "mlp.gate_proj"),
    WeightRenaming("feed_forward.w3", "mlp.up_proj"),
    WeightRenaming("feed_forward.w2", "mlp.down_proj"),
    WeightRenaming("attention_norm", "input_layernorm"),
    WeightRenaming("ffn_norm", "post_attention_layernorm"),
    WeightRenaming("^output", "^lm_head"),
    WeightConverter(
        "attention.wqkv",
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        operations=[SplitGroups()],
    ),
]

register_checkpoint_conversion_mapping(InternLM2Config.model_type, _MAPPING, overwrite=True)
AutoConfig.register(InternLM2Config.model_type, InternLM2Config, exist_ok=True)
AutoModel.register(InternLM2Config, InternLM2Model, exist_ok=True)
AutoModelForCausalLM.register(InternLM2Config, InternLM2ForCausalLM, exist_ok=True)
# its own tokenizer class is remote code; the same vocabulary in tokenizer.json needs none
AutoTokenizer.register(InternLM2Config, tokenizer_class=TokenizersBackend, exist_ok=True)
