"""``pargo convert-release``: a released checkpoint in miniature becomes a folder; every tensor is accounted for."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from pargo_mllm import ParGoForConditionalGeneration, ParGoProcessor
from pargo_mllm.checkpoints import convert_released_projector, convert_released_vision_encoder
from pargo_mllm.checkpoints.convert_release import REPORT
from pargo_mllm.cli import main
from tests.mllm.made.miniature_families import make_language_model, make_tokenizer
from tests.mllm.made.released_encoder import HEADS, SIDE, WIDTH, released_encoder

TOKENS, PARTIAL, INNER, LAYERS, TEXT = 5, 4, 24, 2, 32
RANK, ALPHA, KV_HEADS, GROUP, HEAD_WIDTH = 3, 6.0, 2, 2, 8


def random_projector(generator):
    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.3

    tensors = {
        "query_tokens": random(1, TOKENS, WIDTH),
        "llm_proj.weight": random(TEXT, WIDTH),
        "llm_proj.bias": random(TEXT),
        "ParGo.bert.embeddings.position_ids": torch.arange(9)[None],
        "ParGo.bert.embeddings.position_embeddings.weight": random(9, WIDTH),
        "ParGo.bert.embeddings.LayerNorm.weight": random(WIDTH),
        "ParGo.bert.embeddings.LayerNorm.bias": random(WIDTH),
    }
    for layer in range(LAYERS):
        stem = f"ParGo.bert.encoder.layer.{layer}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            for kind in (name, f"cross{name}"):
                tensors |= {f"{stem}.{kind}.weight": random(WIDTH, WIDTH), f"{stem}.{kind}.bias": random(WIDTH)}
        for name in ("attention.output", "crossattention.output", "output_query"):
            norm = f"{stem}.{name}.LayerNorm"
            tensors |= {f"{norm}.weight": random(WIDTH), f"{norm}.bias": random(WIDTH)}
        tensors |= {f"{stem}.intermediate_query.dense.weight": random(INNER, WIDTH)}
        tensors |= {f"{stem}.intermediate_query.dense.bias": random(INNER)}
        tensors |= {f"{stem}.output_query.dense.weight": random(WIDTH, INNER)}
        tensors |= {f"{stem}.output_query.dense.bias": random(WIDTH)}
    return tensors


def random_lora(generator):
    tensors = {}
    sizes = {"attention.wqkv": (TEXT, KV_HEADS * (GROUP + 2) * HEAD_WIDTH), "feed_forward.w2": (40, TEXT)}
    for place, (inputs, outputs) in sizes.items():
        stem = f"llm_model.base_model.model.model.layers.1.{place}"
        tensors[f"{stem}.lora_A.default.weight"] = torch.randn(RANK, inputs, generator=generator) * 0.3
        tensors[f"{stem}.lora_B.default.weight"] = torch.randn(outputs, RANK, generator=generator) * 0.3
    return tensors


@pytest.fixture(scope="module")
def released():
    return released_encoder()


@pytest.fixture(scope="module")
def checkpoint(released):
    generator = torch.Generator().manual_seed(8)
    encoder = {name: tensor.float() for name, tensor in released.items()}
    return {**encoder, **random_projector(generator), **random_lora(generator), "ParGo.cls.bias": torch.zeros(2)}


@pytest.fixture(scope="module")
def llm(tokenizer, tmp_path_factory):
    """A language model's folder whose tokenizer does not know the image token yet."""
    folder = tmp_path_factory.mktemp("llm")
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=len(tokenizer) - 1, hidden_size=TEXT, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=KV_HEADS, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def command(checkpoint, llm, out, *more):
    sizes = ["--num-partial", PARTIAL, "--num-heads", 2, "--vision-heads", HEADS, "--image-size", SIDE, "--lora-alpha", ALPHA]
    return main(
        [str(word) for word in ("convert-release", "--checkpoint", checkpoint, "--llm", llm, "--out", out, *sizes, *more)]
    )


@pytest.fixture(scope="module")
def converted(checkpoint, llm, tmp_path_factory):
    file, out = tmp_path_factory.mktemp("release") / "pargo.pth", tmp_path_factory.mktemp("models") / "pargo"
    torch.save({"model": {f"module.{name}": tensor for name, tensor in checkpoint.items()}, "epoch": 1}, file)
    assert command(file, llm, out) == 0
    return out


def fused(tensors, layer, x):
    """What the LoRA factors on wqkv add: by group of query heads the queries, then a key head, then a value head."""
    stem = f"llm_model.base_model.model.model.layers.{layer}.attention.wqkv"
    added = x @ tensors[f"{stem}.lora_A.default.weight"].T @ tensors[f"{stem}.lora_B.default.weight"].T * ALPHA / RANK
    query, key, value, place = [], [], [], 0
    for _ in range(KV_HEADS):
        for destination, heads in ((query, GROUP), (key, 1), (value, 1)):
            destination.append(added[..., place : place + heads * HEAD_WIDTH])
            place += heads * HEAD_WIDTH
    return {name: torch.cat(parts, -1) for name, parts in (("q_proj", query), ("k_proj", key), ("v_proj", value))}


@torch.no_grad()
def test_the_folder_is_the_three_parts_and_lora(converted, checkpoint, llm, pictures):
    model, processor = ParGoForConditionalGeneration.from_pretrained(converted), ParGoProcessor.from_pretrained(converted)
    batch = processor(text=["<image> what shape"], images=[pictures[:1]], return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, SIDE, SIDE)
    features = convert_released_vision_encoder(checkpoint, HEADS, SIDE)(batch["pixel_values"]).last_hidden_state
    own = {name: tensor for name, tensor in checkpoint.items() if not name.startswith("ParGo.cls")}
    tokens = convert_released_projector(own, PARTIAL, 2)(features)
    # the language model as it was published, its LoRA added by hand
    alone = LlamaForCausalLM.from_pretrained(llm).eval()
    layer = alone.model.layers[1]
    for name in ("q_proj", "k_proj", "v_proj"):
        getattr(layer.self_attn, name).register_forward_hook(
            lambda _, inputs, out, name=name: out + fused(checkpoint, 1, inputs[0])[name]
        )
    stem = "llm_model.base_model.model.model.layers.1.feed_forward.w2"
    down, up = (checkpoint[f"{stem}.lora_{side}.default.weight"] for side in "AB")
    layer.mlp.down_proj.register_forward_hook(lambda _, inputs, out: out + inputs[0] @ down.T @ up.T * ALPHA / RANK)
    words = alone.get_input_embeddings()(batch["input_ids"][:, TOKENS:])
    expected = alone(inputs_embeds=torch.cat((tokens, words), dim=1)).logits
    logits = model(**batch).logits[..., : expected.shape[-1]]
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)


@torch.no_grad()
def test_the_published_form_of_internlm2_is_what_lora_is_folded_into(checkpoint, tmp_path):
    tokenizer = make_tokenizer("internlm2")
    language_model = make_language_model("internlm2", tokenizer)
    language_model.save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    adapted = dict(checkpoint)
    stem = "llm_model.base_model.model.model.layers.1.feed_forward.w2"
    for side, shape in (("A", (RANK, 48)), ("B", (TEXT, RANK))):
        adapted[f"{stem}.lora_{side}.default.weight"] = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 0.3
    save_file(adapted, tmp_path / "release.safetensors")
    assert command(tmp_path / "release.safetensors", tmp_path / "llm", tmp_path / "out") == 0
    model = ParGoForConditionalGeneration.from_pretrained(tmp_path / "out")
    # the update added to the file in its own names, wqkv in one piece
    weights = load_file(tmp_path / "llm" / "model.safetensors")
    for place in ("attention.wqkv", "feed_forward.w2"):
        down, up = (adapted[f"llm_model.base_model.model.model.layers.1.{place}.lora_{side}.default.weight"] for side in "AB")
        weights[f"model.layers.1.{place}.weight"] += ALPHA / RANK * up @ down
    save_file(weights, tmp_path / "llm" / "model.safetensors", metadata={"format": "pt"})
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "llm").eval()
    ids = torch.tensor([[5, 9, 60, 33, 2]])
    logits = model(input_ids=ids).logits[..., : len(tokenizer)]
    torch.testing.assert_close(logits, expected(input_ids=ids).logits, rtol=0, atol=1e-5)
    assert model.generation_config.eos_token_id[0] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert "<|im_start|>" in ParGoProcessor.from_pretrained(tmp_path / "out").chat_template


def test_every_tensor_is_used_or_named(converted, checkpoint):
    report = json.loads((converted / REPORT).read_text())
    left = [
        "ParGo.bert.embeddings.position_ids",
        "ParGo.cls.bias",
        "visual_encoder.head.weight",
        "visual_encoder.norm.bias",
        "visual_encoder.norm.weight",
    ]
    assert report["left_over"] == left
    assert report["vision_encoder"] + report["projector"] + report["lora"] + len(left) == len(checkpoint)
    layer = "model.layers.1"
    expected = [f"{layer}.self_attn.{name}_proj.weight" for name in "qkv"] + [f"{layer}.mlp.down_proj.weight"]
    assert sorted(report["lora_folded_into"]) == sorted(expected)


class Hostile:
    def __reduce__(self):
        return (os.mkdir, ("was-run",))


@pytest.mark.parametrize("kind", ["torch.save", "pickle", "damaged", "safetensors", "absent", "a list"])
def test_files_that_are_no_checkpoint_are_refused_and_never_run(kind, llm, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / ("file.safetensors" if kind == "safetensors" else "file.pth")
    if kind == "torch.save":
        torch.save({"model": Hostile()}, file)
    elif kind == "pickle":
        file.write_bytes(pickle.dumps({"model": Hostile()}))
    elif kind in ("damaged", "safetensors"):
        torch.save({"model": torch.zeros(1000)}, file)
        file.write_bytes(file.read_bytes()[:700])
    elif kind == "a list":
        torch.save([torch.zeros(2)], file)
    assert command(file, llm, tmp_path / "out") == 2
    said = capsys.readouterr().err
    expected = {"torch.save": "nothing of it was run", "pickle": "nothing of it was run", "absent": "is no file"}
    expected |= {"damaged": "damaged or not complete", "safetensors": "damaged or not complete", "a list": "holds a list"}
    assert expected[kind] in said
    assert str(file) in said
    assert not (tmp_path / "was-run").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("ln_vision.bias", "ln_vision.bias"),
        ("ParGo.bert.encoder.layer.1.crossattention.self.key.bias", "ParGo.bert.encoder.layer.1.crossattention.self.key.bias"),
        ("llm_proj.weight", "no llm_proj"),
        ("llm_model.base_model.model.model.layers.1.attention.wqkv.lora_B.default.weight", "only lora_A of model.layers.1"),
    ],
)
def test_a_missing_tensor_is_an_error_and_nothing_is_written(checkpoint, llm, lost, said, tmp_path, capsys):
    save_file({name: tensor for name, tensor in checkpoint.items() if name != lost}, tmp_path / "release.safetensors")
    assert command(tmp_path / "release.safetensors", llm, tmp_path / "out") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_language_model_and_a_full_folder_are_refused(checkpoint, llm, tmp_path, capsys):
    strange = dict(checkpoint)
    for side, shape in (("A", (RANK, TEXT)), ("B", (24, RANK))):
        strange[f"llm_model.base_model.model.model.layers.1.attention.wqkv.lora_{side}.default.weight"] = torch.ones(shape)
    save_file(strange, tmp_path / "release.safetensors")
    assert command(tmp_path / "release.safetensors", llm, tmp_path / "out") == 2
    assert "24 rows and the language model 64" in capsys.readouterr().err
    assert command(tmp_path / "release.safetensors", tmp_path, tmp_path / "out") == 2
    assert "has no config.json" in capsys.readouterr().err
    assert command(tmp_path / "release.safetensors", llm, tmp_path) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_precision_is_the_users(checkpoint, llm, tmp_path):
    save_file(checkpoint, tmp_path / "release.safetensors")
    assert command(tmp_path / "release.safetensors", llm, tmp_path / "out", "--dtype", "bfloat16") == 0
    model = ParGoForConditionalGeneration.from_pretrained(tmp_path / "out", dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
