"""What trains, what stays, and at which rate."""

import copy
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from transformers import SiglipVisionConfig, SiglipVisionModel

from pargo_mllm.data.feeding.collation import RowCollator
from pargo_mllm.data.feeding.packing import pad_packed
from pargo_mllm.language.lora import LoraSettings, add_lora
from pargo_mllm.miniature import stage0_language
from pargo_mllm.miniature.order import in_order
from pargo_mllm.miniature.stage0_encoder import NO_LABEL, PatchLabeller
from pargo_mllm.miniature.stage0_language import FactDataset, FactReader, ToldFacts
from pargo_mllm.training.stages import stage1, stage2
from pargo_mllm.training.trainer.parts import count_parameters, describe_parts, freeze_all_but, part_of
from pargo_mllm.training.trainer.settings import StageSettings
from pargo_mllm.training.trainer.stage_trainer import ParGoTrainer, Stage
from tests.mllm.made.items import encoded, items_about

PAIRS = [("what shape", "circle"), ("which colour is at the top", "red"), ("what is at the top", "big blue square")]
SETTINGS = StageSettings(steps=3, batch_size=2, learning_rate=2e-2, bf16=False, save_steps=None, report_to="none")
LORA = LoraSettings(rank=2, alpha=4, dropout=0.0)


@pytest.fixture
def answers(processor):
    features = torch.randn(6, 16, 24, generator=torch.Generator().manual_seed(0))
    return items_about(processor, [PAIRS] * 6, features)


@pytest.fixture
def collate(processor):
    return RowCollator(processor.tokenizer.pad_token_id, pack=False)


@pytest.fixture
def stage_in(answers, collate):
    return lambda folder: Stage(answers, collate, SETTINGS, folder / "trainer")


def quiet(line):
    pass


def moved(before, after):
    """Names of the tensors that changed, bit by bit."""
    assert set(before) == set(after)
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def test_stage_1_moves_the_projector_and_nothing_else(make_model, processor, stage_in, tmp_path):
    model, lines = make_model(), []
    before = copy.deepcopy(model.state_dict())
    log = stage1(model, processor, stage_in(tmp_path), tmp_path, say=lines.append)
    projector = {name for name in before if name.startswith("model.projector.")}
    assert moved(before, model.state_dict()) == projector
    assert [entry["step"] for entry in log] == [1, 2, 3]
    assert log[-1]["loss"] < log[0]["loss"]
    text = "\n".join(lines)
    for part, state in (
        ("vision_tower", "frozen"),
        ("projector", "trains"),
        ("language_model", "frozen"),
        ("lm_head", "frozen"),
    ):
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [part]]
        assert line.endswith(state)
    loaded = type(model).from_pretrained(tmp_path)
    assert moved(loaded.state_dict(), model.state_dict()) == set()


def test_stage_2_moves_the_projector_and_the_language_models_linear_maps(make_model, processor, stage_in, tmp_path):
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    merged, log = stage2(model, processor, stage_in(tmp_path), LORA, tmp_path, say=quiet)
    linears = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    expected = {name for name in before if name.startswith("model.projector.")} | {
        name for name in before if ".language_model." in name and name.split(".")[-2] in linears
    }
    assert moved(before, merged.state_dict()) == expected
    assert log[-1]["loss"] < log[0]["loss"]
    loaded = type(model).from_pretrained(tmp_path)
    assert moved(loaded.state_dict(), merged.state_dict()) == set()


def test_the_saved_adapter_alone_gives_back_the_trained_model(make_model, processor, answers, collate, stage_in, tmp_path):
    merged, _ = stage2(make_model(), processor, stage_in(tmp_path), LORA, tmp_path, say=quiet)
    loaded = PeftModel.from_pretrained(make_model(), tmp_path / "adapter").eval()
    batch = collate(answers[:2])
    del batch["contents"]
    with torch.no_grad():
        trained, untrained = merged.eval()(**batch).logits, make_model()(**batch).logits
        torch.testing.assert_close(loaded(**batch).logits, trained, rtol=0, atol=2e-5)
    assert not torch.allclose(untrained, trained, atol=1e-2)


def test_stages_give_the_same_every_time(make_model, processor, stage_in, tmp_path):
    runs = []
    for run in ("a", "b"):
        model = make_model()
        runs.append(
            (
                stage1(
                    model,
                    processor,
                    stage_in(tmp_path / run),
                    tmp_path / run,
                    say=quiet,
                ),
                model.state_dict(),
            )
        )
    assert runs[0][0] == runs[1][0]
    assert moved(runs[0][1], runs[1][1]) == set()


def test_lora_sits_on_the_language_model_alone(make_model):
    adapted = add_lora(make_model(), LORA)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    lora = {name for name in trained if "lora_" in name}
    assert len(lora) == 2 * 7 * 2, "A and B of seven linear maps in two layers"
    assert all(part_of(name) == "language_model" for name in lora)
    assert all(part_of(name) == "projector" for name in trained - lora)
    plain = sum(parameter.numel() for parameter in make_model().model.projector.parameters())
    assert count_parameters(adapted)["projector"] == (plain, plain), "PEFT's untouched copy is not counted"
    assert "frozen" in describe_parts(adapted).splitlines()[0]


@pytest.mark.parametrize(("field", "value"), [("rank", 0), ("dropout", 1.0), ("dropout", -0.1)])
def test_lora_settings_that_cannot_train_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"{field}={value} must"):
        LoraSettings(**{field: value})


def test_freezing_names_its_parts(make_model):
    model = make_model()
    freeze_all_but(model, "vision_tower")
    assert {part_of(n) for n, p in model.named_parameters() if p.requires_grad} == {"vision_tower"}
    with pytest.raises(ValueError, match=r"part='encoder' is unknown; it must be one of vision_tower"):
        freeze_all_but(model, "encoder")


@pytest.mark.parametrize(("own", "expected"), [(0.5, 0.5), (None, 0.25)])
def test_the_projector_may_have_a_learning_rate_of_its_own(make_model, tmp_path, own, expected):
    model = make_model()
    freeze_all_but(model, "projector")
    adapted = add_lora(model, LORA)
    rest = {"projector_learning_rate": own, "weight_decay": 0.03, "bf16": False}
    settings = StageSettings(steps=1, batch_size=1, learning_rate=0.25, **rest)
    trainer = ParGoTrainer(model=adapted, args=settings.training_arguments(tmp_path), settings=settings)
    rates, seen = {}, set()
    names = {parameter: name for name, parameter in adapted.named_parameters()}
    for group in trainer.create_optimizer().param_groups:
        for parameter in group["params"]:
            name = names[parameter]
            assert name not in seen
            seen.add(name)
            rates.setdefault(part_of(name), set()).add(group["lr"])
            decays = not (name.endswith("bias") or "norm" in name)
            assert group["weight_decay"] == (0.03 if decays else 0.0), name
    assert rates == {"projector": {expected}, "language_model": {0.25}}
    assert seen == {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"batch_size": -1}, "batch_size=-1 must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be positive"),
        ({"warmup": 1.0}, r"warmup=1.0 must lie in \[0, 1\)"),
        ({"schedule": "linear"}, "schedule='linear' is unknown; use 'cosine'"),
    ],
)
def test_settings_that_cannot_train_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        StageSettings(**{"steps": 1, "batch_size": 1, "learning_rate": 0.1, **change})


def test_the_encoders_loss_is_the_sum_of_cross_entropies_over_labelled_patches():
    torch.manual_seed(0)
    encoder = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4,
            vision_use_head=False,
        )
    )  # fmt: skip
    model, pixels = PatchLabeller(encoder, [3, 2]), torch.randn(2, 3, 8, 8)
    labels = torch.randint(0, 2, (2, 4, 2))
    labels[0, 1, 0] = labels[1, :, 1] = NO_LABEL
    features, expected = encoder(pixels).last_hidden_state, 0.0
    for head in range(2):
        losses = []
        for row in range(2):
            for patch in range(4):
                if labels[row, patch, head] != NO_LABEL:
                    scores = model.heads[head](features[row, patch])
                    losses.append(scores.logsumexp(0) - scores[labels[row, patch, head]])
        expected += torch.stack(losses).mean()
    torch.testing.assert_close(model(pixels, labels)["loss"], expected)


def test_told_facts_are_sums_of_words_each_in_a_slot_of_its_own(make_model, processor):
    model = make_model()
    language = type("Reading", (), {})
    conversations = encoded(processor, PAIRS)
    facts = [(7, 8, 9), (10,), (11, 12)]
    dataset = FactDataset([ToldFacts(facts, conversations)], 10, processor.image_token_id, seed=0)
    item, again = dataset[0], dataset[0]
    told = [tuple(word for word in slot.tolist() if word >= 0) for slot in item["facts"]]
    assert sorted(filter(None, told)) == sorted(facts)
    assert len(told) == 10
    assert not torch.equal(item["facts"], again["facts"]), "slots are drawn anew"

    class Recorder(torch.nn.Module):
        """Stands where the language model is, and keeps what it is given."""

        def __init__(self):
            super().__init__()
            self.embeddings = model.get_input_embeddings()

        def get_input_embeddings(self):
            return self.embeddings

        def forward(self, inputs_embeds, attention_mask, **kwargs):
            language.seen, language.mask = inputs_embeds, attention_mask

    batch = stage0_language._collate(processor.tokenizer.pad_token_id, [item])
    reader = FactReader(Recorder(), processor.image_token_id)
    reader(**batch)
    weight = model.get_input_embeddings().weight
    is_slot = batch["input_ids"][0] == processor.image_token_id
    for vector, words in zip(language.seen[0, is_slot], told, strict=True):
        torch.testing.assert_close(vector, weight[list(words)].sum(0) if words else torch.zeros(32))
    assert torch.equal(language.seen[0, ~is_slot], weight[batch["input_ids"][0, ~is_slot]])
    assert torch.equal(language.mask == 0, batch["attention_mask"])
    with pytest.raises(ValueError, match=r"num_slots=2 is too few for 3 facts"):
        FactDataset([ToldFacts(facts, conversations)], 2, processor.image_token_id, seed=0)


def test_collated_rows_are_the_padded_rows(processor, answers, collate):
    collated = collate([answers[0], answers[2]])
    expected = pad_packed([answers[0]["packed"], answers[2]["packed"]], processor.tokenizer.pad_token_id)
    for name, tensor in expected.items():
        assert torch.equal(collated[name], tensor)
    assert torch.equal(collated["vision_features"][1], answers[2]["vision_features"][0])


@pytest.mark.parametrize(("items", "steps"), [(7, 24), (7, 2), (4, 4), (1, 2)])
def test_every_epoch_of_stage_0_is_another_permutation(items, steps):
    settings = StageSettings(steps=steps, batch_size=2, learning_rate=0.1, seed=3)
    lessons = list(range(items))
    order = list(map(in_order(lessons, settings).__getitem__, range(2 * steps)))
    assert len(in_order(lessons, settings)) == 2 * steps
    epochs = [order[first : first + items] for first in range(0, len(order), items)]
    assert all(sorted(epoch) == lessons for epoch in epochs[:-1])
    assert len(set(epochs[-1])) == len(epochs[-1])
    if items > 4:
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
        other = in_order(lessons, replace(settings, seed=4))
        assert order != list(map(other.__getitem__, range(2 * steps)))
