"""Every causal language model of the installed transformers, as small as its configuration allows."""

import torch
from transformers import AutoModelForCausalLM, SiglipVisionModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pargo_mllm.assembly import assemble
from pargo_mllm.configuration import ParGoConfig, is_composite
from tests.mllm.made.miniature_families import small_encoder

MODEL_TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
# a token of every vocabulary here, for pictures
IMAGE = 5
WIDTH, VOCABULARY, LAYERS, HEADS, KV_HEADS = 32, 96, 2, 4, 2

# what configurations call the same thing
_SMALL = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "emb_dim", "embed_dim", "word_embed_proj_dim"), WIDTH),
    **dict.fromkeys(("embedding_size", "input_embedding_size", "output_embedding_size", "dim_model"), WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "dff", "d_ff", "d_inner"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "dim_ff"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 24),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), LAYERS),
    **dict.fromkeys(("num_encoder_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), HEADS),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), KV_HEADS),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("num_shared_experts", "n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("mamba_d_state", "mamba_d_head", "mamba_n_heads", "state_size", "ssm_state_size"), 8),
    "vocab_size": VOCABULARY,
    "head_dim": 8,
    "qk_head_dim": 16,
    "mamba_d_ssm": 64,
    "sliding_window": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    # a scale that does nothing, as some have by default, would hide that it is lost
    "logit_scale": 0.37,
    "logits_scaling": 2.7,
    "final_logit_softcapping": 0.5,
    "output_router_logits": True,
    "initializer_range": 0.2,
}
LEFT = object()
_MLA = {"num_key_value_heads": 4, "head_dim": 8}
_FOUR = {"num_hidden_layers": 4}
_OWN = {
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "longcat_flash", "youtu"), _MLA
    ),
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next", "qwen4_exp_text", "lfm3"), _FOUR),
    "minicpm3": {**_MLA, "logits_scaling": LEFT},
    "deepseek_v2": {**_MLA, "num_experts_per_tok": 2},
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    "bailing_hybrid": {**_MLA, "layer_types": ["linear_attention", "full_attention"]},
    "kimi_linear": {**_MLA, "layer_types": ["linear_attention", "full_attention"]},
    "dbrx": {
        "attn_config": {"kv_n_heads": KV_HEADS, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots1": {"n_shared_experts": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3},
    # they fail with it themselves: with so few layers there is no router
    "deepseek_v4": {"output_router_logits": LEFT},
    "flint": {"output_router_logits": LEFT},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
    "xmod": {"default_language": "en_XX"},
    "gemma3n_text": {"num_kv_shared_layers": 0, "vocab_size_per_layer_input": VOCABULARY},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "falcon": {"head_dim": LEFT},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "prophetnet": {"num_hidden_layers": LEFT},
    "reformer": {"is_decoder": True, "axial_pos_shape": [8, 16], "axial_pos_embds_dim": [8, 24]},
    "zaya": {"num_experts_per_tok": 1},
    "xlnet": {"max_position_embeddings": LEFT},
    "xlstm": {"v_head_dim": LEFT, "qk_head_dim": LEFT, "head_dim": LEFT},
}


def tiny_config(model_type, **changes):
    """A configuration of a few thousand weights, everything that matters left as its class has it by default."""
    own = {**_OWN.get(model_type, {}), **changes}
    default = CONFIG_MAPPING[model_type]()
    kept = {
        name: value
        for name, value in _SMALL.items()
        if name not in own and _is_set(default, name) and not isinstance(getattr(default, name), (list, dict))
    }
    return CONFIG_MAPPING[model_type](**kept, **{name: value for name, value in own.items() if value is not LEFT})


def tiny_model(model_type, seed=0, **changes):
    """The causal class with random weights, nothing of them zero or one."""
    config = tiny_config(model_type, **changes)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.add_(0.1 * torch.randn_like(weight))
    return model


def _is_set(config, name):
    try:
        return hasattr(config, name)
    # transformers raises what it likes for attributes that differ by layer
    except Exception:
        return False


NOT_SMALL = {
    "blt": "its parts have sizes of their own, by default those of 8B parameters",
    "phi4_multimodal": "its parts for pictures and sound have sizes of their own",
    "gemma4_assistant": "its default configuration is refused by its own class",
}


class NotBuilt(Exception):
    """A class that this file cannot make small, or that fails by itself; the message says why."""


def composite(model_type):
    """The default configuration of a model that is made of several parts; None for one of text alone."""
    if model_type in NOT_SMALL:
        return None
    config = CONFIG_MAPPING[model_type]()
    return config if is_composite(config) else None


def built(model_type):
    """:func:`tiny_model`, once it has answered for itself."""
    if model_type in NOT_SMALL:
        raise NotBuilt(NOT_SMALL[model_type])
    try:
        model = tiny_model(model_type)
        model(input_ids=torch.arange(3, 9)[None])
    except Exception as error:
        raise NotBuilt(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    return model


def behind_pictures(language_model):
    """A ParGo model, in evaluation mode, around a language model that has not grown."""
    vision = small_encoder()
    projector = {"num_partial_tokens": 8, "num_global_tokens": 2, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = ParGoConfig(
        vision_config=vision, text_config=language_model.config, image_token_id=IMAGE, projector_config=projector
    )
    return assemble(config, SiglipVisionModel(vision), language_model).eval()
