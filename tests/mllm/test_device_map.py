"""``device_map="auto"``: where a model is spread over devices, none of its layers is cut."""

import pytest
import torch
from accelerate import dispatch_model, infer_auto_device_map
from transformers import LlamaConfig, SiglipVisionConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from pargo_mllm import Eva02VisionConfig, ParGoConfig, ParGoForConditionalGeneration
from pargo_mllm.language.internlm2 import InternLM2Config

KINDS = ("pargo", "qformer", "resampler", "c_abstractor", "d_abstractor", "linear", "mlp")
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {
    "siglip": SiglipVisionConfig(**SIZES, image_size=28, patch_size=7, vision_use_head=False),
    "eva02": Eva02VisionConfig(**SIZES, image_size=28, patch_size=7),
}
TEXT = {"llama": LlamaConfig, "internlm2": InternLM2Config}


def make(kind, vision="siglip", text="llama"):
    return ParGoForConditionalGeneration(
        ParGoConfig(
            vision_config=VISION[vision],
            text_config=TEXT[text](**SIZES, vocab_size=40, num_key_value_heads=2),
            projector_config={"projector_type": kind, "num_hidden_layers": 4, "num_attention_heads": 2,
                              "hidden_size": 32, "num_partial_tokens": 8, "num_global_tokens": 2},
            image_token_id=39,
            vision_feature_select_strategy="full",
        )
    ).eval()  # fmt: skip


def device_of(name, device_map):
    """Where a parameter goes: what is said of the longest name that it begins with."""
    return device_map[max((key for key in device_map if key == "" or f"{name}.".startswith(f"{key}.")), key=len)]


def budgets(model):
    size = sum(parameter.nbytes for parameter in model.parameters())
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    largest = max(sum(parameter.nbytes for parameter in layer.parameters()) for layer in layers)
    return range(largest + 1, size, max(1, size // 60))


@pytest.mark.parametrize(
    ("kind", "vision", "text"), [*((kind, "siglip", "llama") for kind in KINDS), ("pargo", "eva02", "internlm2")]
)
def test_no_layer_is_cut_whatever_the_memory(kind, vision, text):
    with torch.device("meta"):
        model = make(kind, vision, text)
    # what adds its input to its output
    layers = {name: module for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)}
    assert sum("projector" in name for name in layers) == (0 if kind in ("linear", "mlp") else 4)
    assert len(layers) == sum("projector" in name for name in layers) + 4
    spread = 0
    for budget in budgets(model):
        memory = dict.fromkeys(range(12), budget) | {"cpu": 2**40}
        device_map = infer_auto_device_map(model, memory, no_split_module_classes=list(model._no_split_modules))
        spread += len(set(device_map.values())) > 1
        for name, layer in layers.items():
            places = {device_of(f"{name}.{parameter}", device_map) for parameter, _ in layer.named_parameters()}
            assert len(places) == 1, f"{name} lies on {places} with {budget} bytes a device"
    assert spread > 10
    # a projector alone too
    assert set(model.model.projector._no_split_modules) <= set(model._no_split_modules)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_is_spread_computes_the_same(kind, tmp_path):
    torch.manual_seed(0)
    model = make(kind)
    ids = torch.tensor([[39] * model.config.num_image_tokens + [5, 6, 7]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 28, 28)}
    expected = model(**inputs).logits
    # half of it stays on disk until it is needed
    size = sum(parameter.nbytes for parameter in model.parameters())
    memory = {"cpu": size // 2, "disk": 2**40}
    device_map = infer_auto_device_map(model, memory, no_split_module_classes=list(model._no_split_modules))
    assert set(device_map.values()) == {"cpu", "disk"}
    spread = dispatch_model(model, device_map, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    torch.testing.assert_close(spread(**inputs).logits, expected, rtol=0, atol=0)
