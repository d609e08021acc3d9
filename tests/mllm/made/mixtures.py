"""Random-weight miniatures with language models that are mixtures of experts, or whose linear maps are not torch's."""

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GPT2Config, GPT2Model, SiglipImageProcessorPil, SiglipVisionModel

from pargo_mllm.assembly import model_and_processor
from pargo_mllm.language.families import FAMILIES
from tests.mllm.made.miniature_families import SIDE, make_tokenizer, small_encoder

_FOUR = {"num_experts_per_tok": 2, "moe_intermediate_size": 20}
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
MIXTURES = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 16, "decoder_sparse_step": 1, **_FOUR},
    "qwen3_moe": {"num_experts": 4, "head_dim": 8, **_FOUR},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    # its first layer has no experts
    "deepseek_v3": {
        "n_routed_experts": 4,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "num_key_value_heads": 4,
        "head_dim": 8,
        **_FOUR,
        **_LATENT,
    },
}


def make_mixture(kind, seed=0, dtype=torch.float32):
    """(model, processor); two layers, 32 wide, four experts."""
    tokenizer = make_tokenizer("qwen")
    torch.manual_seed(seed)
    shared = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    language_model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**shared, **MIXTURES[kind]})).to(dtype).eval()
    image_processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    projector = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_partial_tokens": 8, "num_global_tokens": 2}
    (family,) = [family for family in FAMILIES if "qwen2" in family.model_types]
    model, processor = model_and_processor(
        SiglipVisionModel(small_encoder()).to(dtype),
        language_model,
        tokenizer,
        image_processor,
        {**projector, "query_initializer_range": 1.0, "output_initializer_range": 0.2},
        family,
    )
    return model.eval(), processor


def with_gpt2():
    """What LoRA needs of a ParGo model, around GPT-2, whose linear maps have transposed weights."""
    torch.manual_seed(0)
    whole, inner = nn.Module(), nn.Module()
    inner.language_model = GPT2Model(
        GPT2Config(n_embd=32, n_layer=2, n_head=4, initializer_range=0.2, vocab_size=50, bos_token_id=0, eos_token_id=0)
    ).eval()
    inner.projector = nn.Linear(4, 4)
    whole.model, whole.prepare_inputs_for_generation = inner, None
    return whole
