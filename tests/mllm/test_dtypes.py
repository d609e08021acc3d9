"""Parts keep the dtypes that they come in, from assembly to the last folder; what trains is in fp32."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, SiglipVisionModel

from pargo_mllm import ParGoConfig, ParGoForConditionalGeneration
from pargo_mllm.answering import answer
from pargo_mllm.assembly import assemble, with_projector
from pargo_mllm.cli import main
from pargo_mllm.data.feeding.collation import RowCollator
from pargo_mllm.language.lora import LoraSettings
from pargo_mllm.training.stages import stage1, stage2
from pargo_mllm.training.trainer.settings import StageSettings
from pargo_mllm.training.trainer.stage_trainer import Stage
from tests.mllm.made.items import items_about
from tests.mllm.made.training_runs import train

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
LORA = LoraSettings(rank=2, alpha=4, dropout=0.0)


def dtypes(tensors):
    """The dtypes of every part of a state dict."""
    found = {}
    for name, tensor in tensors.items():
        part = next(part for part in ("vision_tower", "projector", "language_model", "lm_head") if part in name)
        found.setdefault(part, set()).add(tensor.dtype)
    return found


def by_part(vision, projector, language):
    return {"vision_tower": {vision}, "projector": {projector}, "language_model": {language}, "lm_head": {language}}


@pytest.fixture
def make_mixed(make_config):
    """A model assembled of parts in these dtypes; the projector is fresh."""

    def make(vision=BF16, language=BF16):
        config = make_config()
        torch.manual_seed(1)
        tower = SiglipVisionModel(copy.deepcopy(config.vision_config)).to(vision)
        text = AutoModelForCausalLM.from_config(copy.deepcopy(config.text_config)).to(language)
        return assemble(config, tower, text).eval(), tower, text

    return make


@pytest.mark.parametrize(("vision", "language"), [(BF16, BF16), (FP32, BF16), (BF16, FP32), (FP16, BF16), (FP32, FP16)])
def test_assembled_saved_and_loaded_parts_keep_their_dtypes(make_mixed, processor, tmp_path, vision, language):
    model, tower, text = make_mixed(vision, language)
    expected = by_part(vision, FP32, language)
    assert dtypes(model.state_dict()) == expected
    given = {f"model.vision_tower.{name}": tensor for name, tensor in tower.state_dict().items()}
    given |= {f"model.language_{name}": tensor for name, tensor in text.state_dict().items() if name != "lm_head.weight"}
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in given.items())
    model.save_pretrained(tmp_path)
    assert dtypes(load_file(tmp_path / "model.safetensors")) == expected
    for options in ({}, {"dtype": "auto"}):
        loaded = ParGoForConditionalGeneration.from_pretrained(tmp_path, **options)
        assert dtypes(loaded.state_dict()) == expected
        assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert dtypes(AutoModelForImageTextToText.from_pretrained(tmp_path).state_dict()) == expected
    # another projector for the same parts is fresh, and in fp32
    config = ParGoConfig.from_pretrained(tmp_path)
    config.projector_config.num_partial_tokens = 4
    assert dtypes(with_projector(loaded, processor, config)[0].state_dict()) == expected


@pytest.mark.parametrize("asked", [FP32, BF16, FP16, "float16"])
def test_a_dtype_that_is_asked_for_is_that_of_every_part(make_mixed, tmp_path, asked):
    make_mixed()[0].save_pretrained(tmp_path)
    dtype = FP16 if asked == "float16" else asked
    given = {"config": ParGoConfig.from_pretrained(tmp_path)}
    for options in ({}, given):
        loaded = ParGoForConditionalGeneration.from_pretrained(tmp_path, dtype=asked, **options)
        assert dtypes(loaded.state_dict()) == by_part(dtype, dtype, dtype)
    loaded.save_pretrained(tmp_path / "again")
    again = ParGoForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert dtypes(again.state_dict()) == by_part(dtype, dtype, dtype)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("vision", "projector", "language"), [(BF16, FP32, BF16), (FP16, FP32, BF16), (FP32, BF16, FP32)])
def test_mixed_parts_compute_what_fp32_does(make_mixed, processor, pictures, vision, projector, language, autocast):
    model, _, _ = make_mixed(vision, language)
    model.model.projector.to(projector)
    wide = copy.deepcopy(model).float()
    questions = [[{"role": "user", "content": [{"type": "image", "image": pictures[0]}, {"type": "text", "text": "what"}]}]]
    inputs = processor.prompts(questions)
    with torch.no_grad():
        expected = wide(**inputs).logits
        with torch.autocast("cpu", BF16, enabled=autocast):
            found = model(**inputs).logits
    # 8 bits of mantissa through a handful of layers
    assert float((found.float() - expected).abs().max() / expected.abs().max()) < 0.06
    with torch.autocast("cpu", BF16, enabled=autocast):
        assert len(answer(model, processor, questions, max_new_tokens=3, do_sample=False)) == 1


def test_hostile_dtypes_are_refused(make_config):
    config = make_config().to_dict()
    for wrong, said in (({"text_config": "nonsense"}, "'nonsense'"), ({"head": "float32"}, "'head'")):
        with pytest.raises(ValueError, match=said):
            ParGoConfig(**{**config, "part_dtypes": wrong})


@pytest.fixture
def stage(processor):
    pairs = [("what shape", "circle"), ("what is at the top", "big blue square")]
    features = torch.randn(4, 16, 24, generator=torch.Generator().manual_seed(0))
    items = items_about(processor, [pairs] * 4, features)

    def make(folder, bf16):
        shared = {"bf16": bf16, "save_steps": 1, "report_to": "none", "use_cpu": True}
        settings = StageSettings(steps=2, batch_size=2, learning_rate=1e-2, **shared)
        return Stage(items, RowCollator(processor.tokenizer.pad_token_id, pack=False), settings, folder)

    return make


@pytest.mark.parametrize("bf16", [False, True])
def test_what_trains_is_kept_in_fp32_between_the_stages(make_mixed, processor, stage, tmp_path, bf16):
    model, _, _ = make_mixed()
    before = copy.deepcopy(model.state_dict())
    stage1(model, processor, stage(tmp_path / "1", bf16), tmp_path / "one", say=lambda line: None)
    one = ParGoForConditionalGeneration.from_pretrained(tmp_path / "one")
    assert dtypes(one.state_dict()) == by_part(BF16, FP32, BF16)
    # to the bit; rounded to bf16 they would have moved by up to 1 in 256
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
        assert torch.equal(tensor, before[name]) == ("projector" not in name), name
    checkpoint = load_file(tmp_path / "1" / "checkpoint-2" / "trained.safetensors")
    assert dtypes(checkpoint) == {"projector": {FP32}}
    moments = torch.load(tmp_path / "1" / "checkpoint-2" / "optimizer.pt", weights_only=True)["state"]
    assert {state["exp_avg"].dtype for state in moments.values()} == {FP32}
    stage2(one, processor, stage(tmp_path / "2", bf16), LORA, tmp_path / "two", say=lambda line: None)
    adapter = load_file(tmp_path / "two" / "adapter" / "adapter_model.safetensors")
    assert dtypes(adapter) == {"projector": {FP32}, "language_model": {FP32}}
    two = load_file(tmp_path / "two" / "model.safetensors")
    assert dtypes(two) == by_part(BF16, FP32, BF16)
    assert all(torch.equal(two[name], before[name]) for name in two if "vision_tower" in name)


def test_lora_is_folded_in_with_one_rounding(make_mixed, processor, stage, tmp_path):
    model, _, _ = make_mixed()
    base = copy.deepcopy(model.state_dict())
    stage2(model, processor, stage(tmp_path / "2", False), LORA, tmp_path / "two", say=lambda line: None)
    adapter = load_file(tmp_path / "two" / "adapter" / "adapter_model.safetensors")
    merged = load_file(tmp_path / "two" / "model.safetensors")
    for name, factor in adapter.items():
        if "lora_A" in name:
            weight = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
            exact = base[weight].double() + 2 * adapter[name.replace("lora_A", "lora_B")].double() @ factor.double()
            # the nearest number of bf16, but for sums that fp32 rounds over the middle between two
            assert (merged[weight] == exact.to(BF16)).float().mean() > 0.999
    # and the command writes the same
    fresh, _, _ = make_mixed()
    fresh.save_pretrained(tmp_path / "base")
    command = ["merge", "--adapter", tmp_path / "two" / "adapter", "--base", tmp_path / "base", "--out", tmp_path / "merged"]
    assert main([str(word) for word in command]) == 0
    written = load_file(tmp_path / "merged" / "model.safetensors")
    assert dtypes(written) == by_part(BF16, FP32, BF16)
    assert all(torch.equal(written[name], merged[name]) for name in written)


def test_a_whole_language_model_trains_in_fp32(make_mixed, processor, stage, tmp_path):
    model, _, _ = make_mixed()
    before, said = copy.deepcopy(model.state_dict()), []
    trained, log = stage2(model, processor, stage(tmp_path / "2", True), None, tmp_path / "two", say=said.append)
    assert log[-1]["loss"] < log[0]["loss"]
    assert not (tmp_path / "two" / "adapter").exists()
    loaded = ParGoForConditionalGeneration.from_pretrained(tmp_path / "two")
    assert dtypes(loaded.state_dict()) == by_part(BF16, FP32, FP32)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name])
        assert torch.equal(tensor, before[name].to(tensor.dtype)) == ("vision_tower" in name), name
    assert [line.split()[-1] for line in said[0].splitlines()[1:]] == ["frozen", "trains", "trains", "trains"]


def test_a_language_model_in_float16_is_no_start(make_mixed, processor, tmp_path, capsys):
    model, _, _ = make_mixed(FP16, FP16)
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    assert json.loads((tmp_path / "start" / "config.json").read_text())["part_dtypes"]["text_config"] == "float16"
    assert train("mini-stage2", "--model", tmp_path / "start", "--dry-run") == 2
    said = capsys.readouterr().err
    assert "float16" in said
    assert "save it in bfloat16 or float32" in said
