"""LoRA on the language model and nothing else, in every family; merging refuses what it cannot do exactly."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pargo_mllm.checkpoints import merging
from pargo_mllm.cli import main
from pargo_mllm.configuration import PROJECTORS
from pargo_mllm.language.lora import LoraSettings, add_lora, lora_targets
from pargo_mllm.training.trainer.parts import part_of
from tests.mllm.made.miniature_families import FAMILY_NAMES, make_family

SMALL = LoraSettings(rank=2, alpha=4, dropout=0.0)


def test_defaults_are_the_papers():
    settings = LoraSettings()
    assert (settings.rank, settings.alpha, settings.dropout) == (256, 512, 0.05)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_lora_is_on_every_linear_map_of_the_language_model_and_on_nothing_else(family):
    adapted = add_lora(make_family(family)[0], SMALL)
    lora = {name.split(".lora_")[0] for name, _ in adapted.named_parameters() if ".lora_" in name}
    prefix = "base_model.model.model.language_model.layers"
    maps = [f"self_attn.{kind}_proj" for kind in "qkvo"] + [f"mlp.{kind}_proj" for kind in ("gate", "up", "down")]
    assert lora == {f"{prefix}.{layer}.{name}" for layer in range(2) for name in maps}
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad and ".lora_" not in name}
    assert trained
    assert all(part_of(name) == "projector" for name in trained)
    assert not any(parameter.requires_grad for name, parameter in adapted.named_parameters() if "vision_tower" in name)


@pytest.mark.parametrize("projector", PROJECTORS)
def test_no_projector_gets_lora(projector):
    adapted = add_lora(make_family("vicuna", projector_type=projector)[0], SMALL)
    assert {part_of(name) for name, _ in adapted.named_parameters() if ".lora_" in name} == {"language_model"}


def test_targets_outside_of_the_language_model_are_refused():
    model, _ = make_family("vicuna")
    with pytest.raises(ValueError, match=r"matches model\.vision_tower.*outside of the language model.*begin it with"):
        add_lora(model, LoraSettings(rank=2, alpha=4, target_modules=r".*\.q_proj"))
    with pytest.raises(ValueError, match=r"Linear has no linear map below model\.language_model"):
        lora_targets(torch.nn.Linear(2, 2))


@pytest.fixture
def trained(tmp_path):
    """A base model and an adapter that changes it, as folders."""
    model, processor = make_family("vicuna")
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    adapted = add_lora(type(model).from_pretrained(tmp_path / "base"), SMALL)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path


def merge(folder, *more):
    return main(["merge", "--adapter", str(folder / "adapter"), "--out", str(folder / "out"), *map(str, more)])


def test_a_base_that_moved_is_named(trained, capsys):
    (trained / "base").rename(trained / "elsewhere")
    assert merge(trained) == 2
    assert "is no model folder; say where it is with --base" in capsys.readouterr().err
    assert merge(trained, "--base", trained / "elsewhere") == 0
    assert (trained / "out" / "processor_config.json").is_file()


def test_nothing_is_overwritten(trained, capsys):
    (trained / "out").mkdir()
    assert merge(trained) == 2
    assert "exists; choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize("lost", ["projector", "lora_B"])
def test_an_adapter_without_its_projector_or_half_of_its_lora_is_refused(trained, capsys, lost):
    path = trained / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if lost not in name}, path)
    assert merge(trained) == 2
    said = capsys.readouterr().err
    assert "lacks" in said
    assert lost in said
    assert not (trained / "out").exists()


def test_weights_of_another_kind_of_file_are_refused(trained, capsys):
    (trained / "adapter" / "adapter_model.safetensors").rename(trained / "adapter" / "adapter_model.bin")
    assert merge(trained) == 2
    assert "has no adapter_model.safetensors" in capsys.readouterr().err


def test_a_merge_that_changes_the_logits_is_an_error(trained, capsys, monkeypatch):
    # less than fp32 can hold
    monkeypatch.setattr(merging, "TOLERANCE", 1e-12)
    assert merge(trained) == 2
    assert "the logits changed by" in capsys.readouterr().err
    assert not (trained / "out").exists()


def test_the_merged_model_keeps_the_dtypes_of_its_base(trained, capsys):
    config = trained / "base" / "config.json"
    weights = trained / "base" / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "bfloat16"}))
    assert merge(trained) == 0
    assert "rounded to bfloat16, the dtype of its base" in capsys.readouterr().out
    dtypes = {("projector" in name, tensor.dtype) for name, tensor in load_file(trained / "out" / "model.safetensors").items()}
    # the projector trained in fp32
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
