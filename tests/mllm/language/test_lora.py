"""What LoRA is put on: names, regular expressions, experts, and maps that are not torch's; and what is said of it."""

import re

import pytest
import torch
from peft import PeftModel
from torch import nn

from pargo_mllm.cli import main
from pargo_mllm.language.lora import LoraSettings, add_lora, count_adapted, describe_adapted, fold_in
from pargo_mllm.training.recipes import RecipeError, load_recipe
from pargo_mllm.training.trainer.flops import StepFlops, weights_a_token
from tests.mllm.made.miniature_families import make_family
from tests.mllm.made.mixtures import MIXTURES, make_mixture, with_gpt2

SMALL = LoraSettings(rank=2, alpha=4, dropout=0.05)


def a_row(config):
    """A picture and a text as the model's arguments."""
    generator = torch.Generator().manual_seed(0)
    image = torch.full((1, config.num_image_tokens), config.image_token_id)
    ids = torch.cat((image, torch.randint(0, 200, (1, 12), generator=generator)), dim=1)
    side = config.vision_config.image_size
    return {"input_ids": ids, "pixel_values": torch.randn(1, 3, side, side, generator=generator)}


def lora_names(adapted):
    """Names of what LoRA is on, without those of wrappers."""
    names = {name.split(".lora_")[0] for name, _ in adapted.named_parameters() if ".lora_" in name}
    return {name.removeprefix("base_model.model.model.language_model.").replace(".base_layer", "") for name in names}


@pytest.mark.parametrize("kind", MIXTURES)
def test_experts_learn_are_saved_and_are_folded_in(kind, tmp_path):
    model, processor = make_mixture(kind)
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    adapted = add_lora(type(model).from_pretrained(tmp_path / "base"), SMALL)
    experts = [
        weight
        for name, weight in adapted.named_parameters()
        if weight.dim() == 3 and "vision" not in name and "projector" not in name
    ]
    counts = count_adapted(adapted)
    assert experts
    assert counts["experts"][1] == sum(weight.numel() for weight in experts)
    assert counts["attention"][0] == counts["attention"][1]
    assert counts["router"][1] == 0
    row = a_row(model.config)
    adapted.train()
    trained = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-2)
    losses = []
    for _ in range(4):
        loss = adapted(**row, labels=row["input_ids"]).loss
        loss.backward()
        assert all(weight.grad is not None for weight in trained), "a process that has none waits for ever"
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with torch.no_grad():
        before = adapted.eval()(**row).logits
        untrained = model(**row).logits
    assert float((before - untrained).abs().max()) > 0.1
    adapted.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(type(model).from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    assert main(["merge", "--adapter", str(tmp_path / "adapter"), "--out", str(tmp_path / "merged")]) == 0
    merged = type(model).from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(again(**row).logits, before, rtol=0, atol=1e-6)
        torch.testing.assert_close(merged(**row).logits, before, rtol=0, atol=5e-5)


def test_experts_have_no_dropout_and_linear_maps_have_it():
    adapted = add_lora(make_mixture("mixtral")[0], SMALL)
    dropouts = {name: module.p for name, module in adapted.named_modules() if isinstance(module, nn.Dropout) and module.p}
    assert set(dropouts.values()) == {0.05}
    assert {name.split(".")[-3] for name in dropouts} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert len(dropouts) == 2 * 4


def test_what_is_adapted_is_told_by_kind():
    adapted = add_lora(make_mixture("mixtral")[0], SMALL)
    attention = 2 * (32 * 32 + 2 * 16 * 32 + 32 * 32)
    experts = 2 * 4 * 3 * 32 * 48
    router, norms = 2 * 4 * 32, 5 * 32
    said = describe_adapted(adapted)
    embeddings = 260 * 32
    assert count_adapted(adapted) == {
        "attention": (attention, attention),
        "experts": (experts, experts),
        "router": (router, 0),
        "embeddings": (embeddings, 0),
        "others": (norms, 0),
    }
    total = attention + experts + router + norms + embeddings
    assert f"LoRA is on {(attention + experts) / total:.1%} of the language model's {total:,} weights" in said
    assert re.search(rf"router +{router:,} weights, +[\d.]+%  frozen", said)
    assert "experts have no dropout" in said
    # without experts nothing is said of them
    assert "experts" not in describe_adapted(add_lora(make_family("vicuna")[0], SMALL))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj", "v_proj"], {f"layers.{i}.self_attn.{kind}_proj" for i in (0, 1) for kind in "qv"}),
        (["mlp.down_proj"], {f"layers.{i}.mlp.down_proj" for i in (0, 1)}),
        (["1.self_attn.o_proj"], {"layers.1.self_attn.o_proj"}),
        (r"model\.language_model\.layers\.0\..*\.k_proj", {"layers.0.self_attn.k_proj"}),
    ],
)
def test_targets_are_names_of_layers_or_a_regular_expression(targets, expected):
    # the encoder has layers of the same names
    adapted = add_lora(make_family("vicuna")[0], LoraSettings(2, 4, 0.0, targets))
    assert lora_names(adapted) == expected


def test_experts_can_be_named():
    adapted = add_lora(make_mixture("mixtral")[0], LoraSettings(2, 4, 0.0, ["experts.down_proj"]))
    assert lora_names(adapted) == {f"layers.{i}.mlp.experts" for i in (0, 1)}
    assert count_adapted(adapted)["experts"][1] == 2 * 4 * 32 * 48


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["q_proj", "w_proj"], r"has no linear map 'w_proj'; \w+_proj\?"),
        (["out_proj"], "has no linear map 'out_proj'"),
        (["zzz"], "has no linear map 'zzz'; it has down_proj, gate_proj"),
        (["proj"], "has no linear map 'proj'"),
        ([], r"target_modules=\[\] must name at least one layer"),
        ("q_proj", "matches no module: it must match whole names, such as model.language_model.layers"),
        ("model.(", "is no regular expression"),
    ],
)
def test_targets_that_are_not_there_are_named(targets, said):
    with pytest.raises(ValueError, match=said):
        add_lora(make_family("vicuna")[0], LoraSettings(2, 4, 0.0, targets))


def test_a_recipe_names_targets():
    assert load_recipe("mini-stage2", {"lora_target_modules": "[q_proj, v_proj]"}).lora().target_modules == ("q_proj", "v_proj")
    assert load_recipe("mini-stage2", {"lora_target_modules": "'.*q_proj'"}).lora().target_modules == ".*q_proj"
    for wrong in ("7", "[1]", "{q_proj: 1}"):
        with pytest.raises(RecipeError, match="must be names of layers, such as"):
            load_recipe("mini-stage2", {"lora_target_modules": wrong})
    with pytest.raises(RecipeError, match=r"lora_target_modules=\[\] must name at least one layer"):
        load_recipe("mini-stage2", {"lora_target_modules": "[]"})
    with pytest.raises(RecipeError, match="tuning='half' is unknown; it must be one of lora, full"):
        load_recipe("mini-stage2", {"tuning": "half"})
    with pytest.raises(RecipeError, match="tuning='full' is for stage 2"):
        load_recipe("mini-stage1", {"tuning": "full"})


def test_transposed_linear_maps_are_adapted_and_folded_in():
    whole = with_gpt2()
    adapted = add_lora(whole, LoraSettings(2, 4, 0.0))
    assert {name.split(".")[-1] for name in lora_names(adapted)} == {"c_attn", "c_proj", "c_fc"}
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.2)
        ids = torch.arange(10)[None]
        before = whole.model.language_model(ids).last_hidden_state
        after = fold_in(adapted).model.language_model(ids).last_hidden_state
        plain = with_gpt2().model.language_model(ids).last_hidden_state
    torch.testing.assert_close(after, before, rtol=0, atol=2e-5)
    assert float((plain - before).abs().max()) > 0.1


def test_of_experts_only_those_count_that_a_token_goes_through():
    model, _ = make_mixture("mixtral")
    # attention; two of four experts, three maps each; forward, and the gradient that passes through
    each_token = 2 * (32 * 32 + 2 * 16 * 32 + 32 * 32) + 2 * 2 * 3 * 32 * 48
    flops = StepFlops(model.config, 0)
    assert flops._per_token == 2 * 2 * each_token
    assert StepFlops(model.config, 0, whole=True)._per_token == 2 * 3 * each_token
    adapted = add_lora(model, LoraSettings(2, 4, 0.0))
    lora = {name: weight for name, weight in adapted.named_parameters() if ".lora_" in name}
    # rank 2: q, o: 32 + 32; k, v: 32 + 16; two experts of gate_up: 32 + 96 and down: 48 + 32
    assert weights_a_token(model.config, lora) == 2 * 2 * (2 * 64 + 2 * 48 + 2 * (128 + 80))
