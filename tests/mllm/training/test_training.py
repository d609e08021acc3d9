"""What trains, what stays, and at which rate."""

import copy

import pytest
import torch
from peft import PeftModel

from pargo_mllm.data.feeding.collation import RowCollator
from pargo_mllm.data.feeding.packing import pad_packed
from pargo_mllm.language.lora import LoraSettings, add_lora
from pargo_mllm.training.stages import stage1, stage2
from pargo_mllm.training.trainer.parts import count_parameters, describe_parts, freeze_all_but, part_of
from pargo_mllm.training.trainer.settings import StageSettings
from pargo_mllm.training.trainer.stage_trainer import ParGoTrainer, Stage
from tests.mllm.made.items import items_about

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


def test_collated_rows_are_the_padded_rows(processor, answers, collate):
    collated = collate([answers[0], answers[2]])
    expected = pad_packed([answers[0]["packed"], answers[2]["packed"]], processor.tokenizer.pad_token_id)
    for name, tensor in expected.items():
        assert torch.equal(collated[name], tensor)
    assert torch.equal(collated["vision_features"][1], answers[2]["vision_features"][0])
