"""InternLM2's checkpoints against a decoder written here that computes on their own layout."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pargo_mllm import ParGoForConditionalGeneration
from pargo_mllm.language.internlm2 import InternLM2Config, InternLM2ForCausalLM
from tests.mllm.made.miniature_families import make_family, make_tokenizer

HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INNER, LAYERS, VOCABULARY = 6, 2, 8, 48, 56, 2, 61


def release(bias=False, seed=0):
    """A state dict with InternLM2's names and shapes."""
    torch.manual_seed(seed)

    def matrix(rows, columns):
        return 0.3 * torch.randn(rows, columns)

    tensors = {"model.tok_embeddings.weight": torch.randn(VOCABULARY, HIDDEN), "output.weight": matrix(VOCABULARY, HIDDEN)}
    tensors["model.norm.weight"] = 1 + 0.3 * torch.randn(HIDDEN)
    for layer in range(LAYERS):
        own = {
            "attention.wqkv.weight": matrix((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN),
            "attention.wo.weight": matrix(HIDDEN, HEADS * HEAD_DIM),
            "feed_forward.w1.weight": matrix(INNER, HIDDEN),
            "feed_forward.w3.weight": matrix(INNER, HIDDEN),
            "feed_forward.w2.weight": matrix(HIDDEN, INNER),
            "attention_norm.weight": 1 + 0.3 * torch.randn(HIDDEN),
            "ffn_norm.weight": 1 + 0.3 * torch.randn(HIDDEN),
        }
        if bias:
            own["attention.wqkv.bias"] = torch.randn((HEADS + 2 * KV_HEADS) * HEAD_DIM)
            own["attention.wo.bias"] = torch.randn(HIDDEN)
        tensors |= {f"model.layers.{layer}.{name}": tensor for name, tensor in own.items()}
    return tensors


def fields(bias=False):
    """What a released config.json holds."""
    return {
        "architectures": ["InternLM2ForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
        "model_type": "internlm2",
        "bias": bias,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "num_hidden_layers": LAYERS,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "max_position_embeddings": 32,
    }


def written(folder, bias=False):
    folder.mkdir(exist_ok=True)
    save_file(release(bias), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(fields(bias)))
    return folder


def rms_norm(x, weight):
    return weight * x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def rotate(x):
    """Rotary positions, theta 10^6, first half against second half; ``[heads, L, head_dim]``."""
    length, half = x.shape[1], HEAD_DIM // 2
    angles = torch.arange(length, dtype=torch.float64)[:, None] * 1e6 ** (-torch.arange(half, dtype=torch.float64) / half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()), dim=-1)


def logits_by_hand(tensors, ids):
    """fp64, head by head."""
    tensors = {name: tensor.double() for name, tensor in tensors.items()}
    x = tensors["model.tok_embeddings.weight"][ids]
    length = len(ids)
    hidden_from = torch.ones(length, length, dtype=torch.bool).triu(1)
    for layer in range(LAYERS):
        own = {
            name.removeprefix(f"model.layers.{layer}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        normed = rms_norm(x, own["attention_norm.weight"])
        fused = normed @ own["attention.wqkv.weight"].T + own.get("attention.wqkv.bias", 0)
        rows = fused.T.unflatten(0, (-1, HEAD_DIM))  # [group of queries, key, value; group, key, value], head_dim, L
        outs, group = [], HEADS // KV_HEADS
        for head in range(HEADS):
            first = head // group * (group + 2)
            query, key = (rotate(rows[index].T[None])[0] for index in (first + head % group, first + group))
            scores = (query @ key.T / HEAD_DIM**0.5).masked_fill(hidden_from, float("-inf"))
            outs.append(scores.softmax(-1) @ rows[first + group + 1].T)
        x = x + torch.cat(outs, dim=-1) @ own["attention.wo.weight"].T + own.get("attention.wo.bias", 0)
        normed = rms_norm(x, own["ffn_norm.weight"])
        gate = torch.nn.functional.silu(normed @ own["feed_forward.w1.weight"].T)
        x = x + (gate * (normed @ own["feed_forward.w3.weight"].T)) @ own["feed_forward.w2.weight"].T
    return rms_norm(x, tensors["model.norm.weight"]) @ tensors["output.weight"].T


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
def test_logits_of_a_released_folder(tmp_path, bias):
    model, report = AutoModelForCausalLM.from_pretrained(written(tmp_path, bias), output_loading_info=True)
    assert type(model) is InternLM2ForCausalLM
    assert not any(report.values()), report
    ids = torch.arange(3, 23)
    expected = logits_by_hand(release(bias), ids)
    torch.testing.assert_close(model.eval()(ids[None]).logits[0].double(), expected, rtol=0, atol=2e-4 * expected.abs().max())


@pytest.mark.parametrize("bias", [False, True])
def test_saved_under_internlm2s_names_bit_for_bit(tmp_path, bias):
    model = AutoModelForCausalLM.from_pretrained(written(tmp_path / "in", bias))
    model.save_pretrained(tmp_path / "out")
    saved, expected = load_file(tmp_path / "out" / "model.safetensors"), release(bias)
    assert saved.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(saved[name], tensor), name
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["bias"]) == ("internlm2", bias)


def test_a_released_config_needs_no_remote_code(tmp_path):
    config = AutoConfig.from_pretrained(written(tmp_path))
    assert type(config) is InternLM2Config
    assert config.rope_parameters["rope_theta"] == 1000000
    assert config.rope_parameters["rope_type"] == "dynamic"
    tokenizer = make_tokenizer("internlm2")
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()


def test_inside_the_multimodal_model_it_is_saved_and_reloaded_bit_for_bit(tmp_path):
    model, _ = make_family("internlm2")
    model.save_pretrained(tmp_path)
    loaded, report = ParGoForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
