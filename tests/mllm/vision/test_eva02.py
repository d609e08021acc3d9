"""EVA-02-CLIP: against the released code's output where that is at hand, and against the equations token by token."""

import math

import pytest
import torch
from torch.nn.functional import layer_norm, linear

from pargo_mllm import Eva02VisionConfig, Eva02VisionModel, ParGoConfig, ParGoForConditionalGeneration
from pargo_mllm.checkpoints import convert_released_vision_encoder
from tests.mllm.made.golden import read_golden
from tests.mllm.made.released_encoder import DEPTH, GRID, HEADS, PATCH, SIDE, WIDTH, released_encoder

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden(shared):
    return read_golden(shared, "eva02_release_small.safetensors")


@pytest.fixture(scope="module")
def released():
    return released_encoder()


def turn(vector, row, column):
    """Rotary positions on one head: the first half of the channel pairs turns with the row, the second with the column."""
    half, turned = len(vector) // 2, vector.clone()
    for axis, place in enumerate((row, column)):
        for pair in range(half // 2):
            angle = place / GRID * 16 * 10000 ** (-2 * pair / half)
            first = axis * half + 2 * pair
            a, b = vector[first], vector[first + 1]
            turned[first] = a * math.cos(angle) - b * math.sin(angle)
            turned[first + 1] = b * math.cos(angle) + a * math.sin(angle)
    return turned


def encode_by_hand(tensors, picture):
    """Features ``[n_v, C]`` of one picture, patch by patch from the released tensors."""

    def get(name):
        return tensors[f"visual_encoder.{name}"]

    def norm(x, name):
        return layer_norm(x, x.shape[-1:], get(f"{name}.weight"), get(f"{name}.bias"), 1e-6)

    tokens = [get("cls_token")[0, 0]]
    for row in range(GRID):
        for column in range(GRID):
            patch = picture[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
            weight = get("patch_embed.proj.weight")
            tokens.append((weight * patch).sum((1, 2, 3)) + get("patch_embed.proj.bias"))
    x = torch.stack(tokens) + get("pos_embed")[0]
    width = WIDTH // HEADS
    for block in range(DEPTH):
        at, y = f"blocks.{block}", norm(x, f"blocks.{block}.norm1")
        q = linear(y, get(f"{at}.attn.q_proj.weight"), get(f"{at}.attn.q_bias"))
        k = linear(y, get(f"{at}.attn.k_proj.weight"))
        v = linear(y, get(f"{at}.attn.v_proj.weight"), get(f"{at}.attn.v_bias"))
        mixed = torch.zeros_like(x)
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)

            def placed(vectors, part=part):
                turned = [turn(vectors[1 + i, part], i // GRID, i % GRID) for i in range(GRID**2)]
                return torch.stack([vectors[0, part], *turned])

            scores = placed(q) @ placed(k).T / math.sqrt(width)
            mixed[:, part] = torch.softmax(scores, -1) @ v[:, part]
        mixed = norm(mixed, f"{at}.attn.inner_attn_ln")
        x = x + linear(mixed, get(f"{at}.attn.proj.weight"), get(f"{at}.attn.proj.bias"))
        y = norm(x, f"{at}.norm2")
        gate = linear(y, get(f"{at}.mlp.w1.weight"), get(f"{at}.mlp.w1.bias"))
        hidden = gate * torch.sigmoid(gate) * linear(y, get(f"{at}.mlp.w2.weight"), get(f"{at}.mlp.w2.bias"))
        x = x + linear(norm(hidden, f"{at}.mlp.ffn_ln"), get(f"{at}.mlp.w3.weight"), get(f"{at}.mlp.w3.bias"))
    return layer_norm(x[1:], (WIDTH,), tensors["ln_vision.weight"], tensors["ln_vision.bias"], 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("how", ["sdpa", "eager"])
def test_equals_the_equations_patch_by_patch(released, how):
    encoder = convert_released_vision_encoder(released, HEADS, SIDE)
    encoder.set_attn_implementation(how)
    pictures = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    features = encoder(pictures).last_hidden_state
    assert features.shape == (2, GRID**2, WIDTH)
    for picture, seen in zip(pictures, features, strict=True):
        torch.testing.assert_close(seen.double(), encode_by_hand(released, picture.double()), rtol=0, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("how", ["sdpa", "eager"])
def test_gives_what_the_released_code_gives(golden, how):
    encoder = convert_released_vision_encoder(golden.checkpoint, num_attention_heads=4, image_size=56)
    encoder.set_attn_implementation(how)
    out = encoder(golden.io["pixel_values"], output_hidden_states=True)
    assert (out.last_hidden_state - golden.io["visual_features"]).abs().max() < TOLERANCE
    assert (out.hidden_states[-1] - golden.io["features_with_cls"][:, 1:]).abs().max() < TOLERANCE
    encoder.config.rope_grid_size = 15
    wrong = encoder(golden.io["pixel_values"]).last_hidden_state
    assert (wrong - golden.io["visual_features"]).abs().max() > TOLERANCE, "the tolerance would not see a wrong grid"


@torch.no_grad()
def test_is_an_encoder_of_the_model_and_survives_saving(golden, make_config, tmp_path):
    encoder = convert_released_vision_encoder({"model": golden.checkpoint}, num_attention_heads=4, image_size=56)
    text = make_config().text_config
    projector = {"num_attention_heads": 2, "num_partial_tokens": 8}
    config = ParGoConfig(vision_config=encoder.config, text_config=text, projector_config=projector, image_token_id=4)
    model = ParGoForConditionalGeneration(config).eval()
    model.model.vision_tower.load_state_dict(encoder.state_dict())
    model.save_pretrained(tmp_path)
    loaded = ParGoForConditionalGeneration.from_pretrained(tmp_path)
    assert isinstance(loaded.model.vision_tower, Eva02VisionModel)
    features = loaded.model.get_vision_features(golden.io["pixel_values"])
    assert (features - golden.io["visual_features"]).abs().max() < TOLERANCE
    assert loaded.get_image_features(golden.io["pixel_values"]).pooler_output.shape == (2, 24, text.hidden_size)


def test_the_real_size_has_the_published_304_million_parameters():
    with torch.device("meta"):
        encoder = Eva02VisionModel(Eva02VisionConfig())
    c, inner, patches = 1024, 2730, 24 * 24
    attention = 4 * c * c + 3 * c + 2 * c
    block = attention + 3 * c * inner + 2 * inner + c + 2 * inner + 4 * c
    expected = 24 * block + (3 * 14 * 14 + 1) * c + c + (patches + 1) * c + 2 * c
    assert sum(p.numel() for p in encoder.parameters()) == expected
    assert round(expected / 1e6) == 304
    config = ParGoConfig(vision_config=Eva02VisionConfig())
    with torch.device("meta"):
        whole = ParGoForConditionalGeneration(config)
    assert sum(p.numel() for p in whole.model.vision_tower.parameters()) == expected
    assert config.num_image_tokens == 304


def test_every_parameter_learns_and_checkpointing_changes_nothing(released):
    gradients = []
    for checkpointing in (False, True):
        encoder = convert_released_vision_encoder(released, HEADS, SIDE).train()
        if checkpointing:
            encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        pictures = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
        encoder(pictures).last_hidden_state.pow(3).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in encoder.named_parameters()})
    assert all(grad is not None and grad.abs().max() > 0 for grad in gradients[0].values())
    for name, grad in gradients[0].items():
        assert torch.equal(grad, gradients[1][name]), name


def test_a_checkpoint_in_half_precision_gives_fp32_weights_of_its_own(released):
    half = {name: tensor.half() for name, tensor in released.items()}
    encoder = convert_released_vision_encoder(half, HEADS, SIDE)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    with torch.no_grad():
        encoder.ln_vision.weight.zero_()
    assert half["ln_vision.weight"].abs().max() > 0


@pytest.mark.parametrize(
    "name",
    [
        "ln_vision.weight",
        "visual_encoder.cls_token",
        "visual_encoder.pos_embed",
        "visual_encoder.blocks.0.mlp.w1.weight",
        "visual_encoder.blocks.1.attn.q_bias",
    ],
)
def test_a_missing_tensor_is_named_as_the_release_names_it(released, name):
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        convert_released_vision_encoder({key: t for key, t in released.items() if key != name}, HEADS, SIDE)


def test_what_does_not_fit_is_refused(released, golden):
    with pytest.raises(ValueError, match=r"image_size=16 gives no grid of the 9 positions.*use image_size=12"):
        convert_released_vision_encoder(released, HEADS, 16)
    with pytest.raises(ValueError, match=r"hidden_size=16 is no multiple of 4 \* num_attention_heads=12"):
        convert_released_vision_encoder(released, 3, SIDE)
    with pytest.raises(ValueError, match=r"rope.freqs_.*num_attention_heads=2"):
        convert_released_vision_encoder(golden.checkpoint, 2, 56)
    with pytest.raises(ValueError, match=r"blocks.0.norm1.weight has shape \[3\].*\[16\]"):
        convert_released_vision_encoder({**released, "visual_encoder.blocks.0.norm1.weight": torch.ones(3)}, HEADS, SIDE)
    encoder = convert_released_vision_encoder(released, HEADS, SIDE)
    with pytest.raises(ValueError, match=r"pixel_values has shape \[1, 3, 12, 16\]; it must be \[pictures, 3, 12, 12\]"):
        encoder(torch.zeros(1, 3, 12, 16))
    with pytest.raises(ValueError, match=r"patch_size=14 does not divide image_size=100"):
        Eva02VisionConfig(image_size=100)


def test_the_first_patch_is_never_taken_for_a_class_token(make_config):
    text = make_config().text_config
    projector = {"num_attention_heads": 2, "num_partial_tokens": 8}
    fields = {"text_config": text, "projector_config": projector, "image_token_id": 4}
    vision = {"model_type": "eva02_clip_vision_model", "hidden_size": 16, "num_attention_heads": 2, "image_size": 56}
    assert ParGoConfig(vision_config=vision, **fields).vision_feature_select_strategy == "full"
    clip = {"model_type": "clip_vision_model", "hidden_size": 24, "image_size": 56, "patch_size": 14}
    assert ParGoConfig(vision_config=clip, **fields).vision_feature_select_strategy == "default"
    with pytest.raises(ValueError, match=r"'default' would drop a patch: eva02_clip_vision_model"):
        ParGoConfig(vision_config=vision, vision_feature_select_strategy="default", **fields)
