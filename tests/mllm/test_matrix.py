"""Every projector with every family: a training step, saving, generating, LoRA and merging."""

import json

import pytest
import torch

from pargo_mllm import ParGoForConditionalGeneration, ParGoProcessor
from pargo_mllm.cli import main
from pargo_mllm.configuration import PROJECTORS
from pargo_mllm.data.feeding.packing import pack, pad_packed
from pargo_mllm.language.lora import LoraSettings, add_lora
from tests.mllm.made.items import encoded
from tests.mllm.made.miniature_families import FAMILY_NAMES, make_family

ALL = [(projector, family) for projector in PROJECTORS for family in FAMILY_NAMES]
# every projector and every family at least once
COVER = {
    (tuple(PROJECTORS)[index % len(PROJECTORS)], FAMILY_NAMES[index % len(FAMILY_NAMES)])
    for index in range(max(len(PROJECTORS), len(FAMILY_NAMES)))
}
PAIRS = [("What is it?", "A cat."), ("Where?", "Left.")]


def batch_for(processor):
    conversations = encoded(processor, PAIRS)
    batch = pad_packed([pack(conversations, processor.image_token_id)], processor.tokenizer.pad_token_id)
    return {**batch, "pixel_values": torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(1))}


def train_step(model, batch):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    model.train()
    before = model(**batch).loss
    before.backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in trained)
    optimizer.step()
    with torch.no_grad():
        assert model(**batch).loss < before
    model.eval()


@pytest.mark.parametrize(
    ("projector", "family"),
    [pytest.param(*pair, id="-".join(pair), marks=() if pair in COVER else pytest.mark.long) for pair in ALL],
)
def test_a_models_life(projector, family, tmp_path, capsys):
    model, processor = make_family(family, projector_type=projector)
    batch = batch_for(processor)
    train_step(model, batch)

    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    model = ParGoForConditionalGeneration.from_pretrained(tmp_path / "base").eval()
    again = ParGoForConditionalGeneration.from_pretrained(tmp_path / "base").eval()
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, again(**batch).logits)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generate(model, ParGoProcessor.from_pretrained(tmp_path / "base"))

    torch.manual_seed(2)
    adapted = add_lora(model, LoraSettings(rank=4, alpha=8, dropout=0.0))
    train_step(adapted, batch)
    adapted.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        trained = adapted(**batch).logits
        untrained = again(**batch).logits
    assert main(["merge", "--adapter", str(tmp_path / "adapter"), "--out", str(tmp_path / "merged")]) == 0
    assert "logits differ by" in capsys.readouterr().out
    merged, report = ParGoForConditionalGeneration.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(report.values()), report
    with torch.no_grad():
        torch.testing.assert_close(merged.eval()(**batch).logits, trained, rtol=0, atol=1e-5)
    assert not torch.allclose(untrained, trained, atol=1e-3)
    changed = {name for name, tensor in merged.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("model.projector.") for name in changed)
    assert any(name.startswith("model.language_model.layers.") for name in changed)
    assert all(name.startswith(("model.projector.", "model.language_model.layers.")) for name in changed)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["text_config"]["model_type"] == (
        model.config.text_config.model_type
    )
    generate(merged, ParGoProcessor.from_pretrained(tmp_path / "merged"))


@torch.no_grad()
def generate(model, processor):
    """Greedy generation from the chat template is a loop over forward."""
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}], add_generation_prompt=True
    )
    picture = torch.zeros(3, 28, 28, dtype=torch.uint8)
    inputs = processor(text=[prompt], images=[[picture]], return_tensors="pt", add_special_tokens=False)
    out = model.generate(**inputs, max_new_tokens=3, do_sample=False, eos_token_id=None)
    ids = inputs["input_ids"]
    for _ in range(3):
        logits = model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits[:, -1]
        logits[:, processor.image_token_id] = float("-inf")
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
    assert out.tolist() == ids.tolist()
