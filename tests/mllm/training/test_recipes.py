"""Recipes: the packaged ones at the paper's sizes, one's own, and what none may say."""

import random

import pytest
import yaml

from pargo_mllm.cli import main
from pargo_mllm.training.recipes import PACKAGED, RecipeError, load_recipe, names
from tests.mllm.made.damage import damage
from tests.mllm.made.training_runs import train

PAPER = {"vicuna-7b": 6_738_415_616, "llama-3-8b": 8_030_261_248, "internlm2-7b": 7_737_708_544}


def test_paper_settings():
    for model in PAPER:
        first, second = load_recipe(f"{model}-stage1"), load_recipe(f"{model}-stage2")
        assert (first.stage, first.steps, first.epochs) == (1, 100_000, None)
        assert (second.stage, second.steps, second.epochs, second.lora_rank) == (2, None, 2, 256)
        projector = first.architecture["projector_config"]
        assert projector == {"num_hidden_layers": 6, "num_partial_tokens": 288, "num_global_tokens": 16}
        assert (first.engine, second.engine) == ("zero2", "zero2")
        # the same division without deepspeed
        first = load_recipe(f"{model}-stage1", {"engine": "ddp"})
        arguments = first.settings(1000, "cpu").training_arguments("unused")
        assert arguments.gradient_accumulation_steps * arguments.per_device_train_batch_size == 256
        assert (arguments.warmup_steps, arguments.lr_scheduler_kwargs) == (2000, {"min_lr": 1e-5})
        # two epochs of 100,000 pictures, 128 at a time
        assert second.settings(100_000, "cpu").steps == 2 * 782


@pytest.mark.parametrize("model", PAPER)
def test_dry_run_at_paper_size(model, capsys):
    for stage in (1, 2):
        assert train(f"{model}-stage{stage}", "--dry-run") == 0
        said = capsys.readouterr()
        text = said.out + said.err
        counts = {line.split()[0]: int(line.split()[1].replace(",", "")) for line in text.splitlines() if "parameters" in line}
        lora = 0
        if stage == 2:
            (lora,) = [int(line.split()[-3].replace(",", "")) for line in text.splitlines() if "of them" in line]
        # the published sizes, and the image token's row in embeddings and head
        assert counts["language_model"] + counts["lm_head"] - lora == PAPER[model] + 2 * 4096
        assert "1 in all" in text
        assert "32 in all" in text
        assert text.count("memory under zero2") == 2


def test_every_recipe_is_known():
    assert set(names()) == {"mini-stage1", "mini-stage2", *(f"{model}-stage{stage}" for model in PAPER for stage in (1, 2))}


def test_own_recipe(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"extends": "mini-stage1", "miniature": "tiny", "epochs": 3, "data": "somewhere"}))
    recipe = load_recipe(str(file), {"learning_rate": "1e-4"})
    assert (recipe.epochs, recipe.steps, recipe.learning_rate, recipe.miniature) == (3, None, 1e-4, "tiny")
    # 3 epochs of 33 pictures, 16 at a time
    assert recipe.settings(33, "cpu").steps == 9


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stage: 1\nlerning_rate: 1.0", "lerning_rate is no key of a recipe; learning_rate?"),
        ("steps: 1", "has no stage"),
        ("stage: [", "cannot be read as YAML"),
        ("- 1", "must hold keys and values"),
        ("extends: ../../secret", "'../../secret' is no packaged recipe"),
        ("extends: mini-stage1\nbf16: 7", "bf16=7 must be true or false"),
        ("extends: vicuna-7b-stage1\narchitecture: {vision_config: {model_type: nonsense}}", "'nonsense'"),
        ("extends: vicuna-7b-stage1\narchitecture: {projector_config: {num_partial_tokens: 999}}", "num_partial_tokens=999"),
    ],
)
def test_unusable_files(tmp_path, capsys, text, says):
    (tmp_path / "mine.yaml").write_text(text)
    assert train(tmp_path / "mine.yaml", "--dry-run") == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_unknown_key_on_the_command_line(capsys):
    with pytest.raises(SystemExit) as error:
        train("mini-stage1", "--lerning-rate", "1")
    assert error.value.code == 2
    assert "--lerning-rate" in capsys.readouterr().err


NOT_YAML = (
    "2001-99-99",
    "9" * 5000,
    "[" * 3000,
    "!!int x",
    "!!timestamp x",
    "!!python/object:x",
    "&a [*a]",
    "\x00",
    "{[1]: 2}",
    # a thousand million values in three lines
    "[&a [" + "1," * 999 + "], &b [" + "*a," * 999 + "], [" + "*b," * 999 + "]]",
)


@pytest.mark.parametrize("text", NOT_YAML)
def test_text_that_is_no_value_is_refused_on_the_command_line_and_in_a_file(tmp_path, text):
    with pytest.raises(RecipeError, match="architecture"):
        load_recipe("vicuna-7b-stage1", {"architecture": text})
    (tmp_path / "own.yaml").write_text(f"extends: vicuna-7b-stage1\narchitecture: {text}\n")
    with pytest.raises(RecipeError, match=r"own\.yaml|architecture"):
        load_recipe(str(tmp_path / "own.yaml"))


def test_damaged_recipes_load_or_are_refused(tmp_path):
    packaged = sorted(PACKAGED.rglob("*.yaml"))
    loaded = 0
    for seed in range(1000):
        random_ = random.Random(seed)
        file = tmp_path / "own.yaml"
        file.write_bytes(random_.choice(packaged).read_bytes())
        change = damage(file, random_)
        try:
            load_recipe(str(file))
            loaded += 1
        except RecipeError:
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed}, {change}: {type(error).__name__} {error}") from error
    assert 0 < loaded < 1000


@pytest.mark.parametrize(
    "architecture",
    [
        "{text_config: {model_type: llama, num_hidden_layers: 1000000000}}",
        "{text_config: {model_type: llama, num_hidden_layers: x}}",
        "{text_config: {model_type: llama, num_attention_heads: 0}}",
        "{text_config: {model_type: llama, hidden_act: sigh}}",
        "{vision_config: {model_type: clip_vision_model, patch_size: 0}}",
        "{vision_config: 7}",
        "{text_config: [llama]}",
        "{projector_config: {num_hidden_layers: 1000000000}}",
        "{projector_config: {num_attention_heads: 0}}",
        "{image_token_id: x}",
        "{1: 2}",
        "{dtype: float99}",
    ],
)
def test_an_impossible_architecture_is_refused(architecture, capsys):
    assert main(["train", "vicuna-7b-stage1", "--dry-run", "--architecture", architecture]) == 2
    said = capsys.readouterr().err
    assert said.startswith("pargo train: ")
    assert "Traceback" not in said


@pytest.mark.parametrize("expression", ["(", "*", "[z-a]", "(?P<x", "x{99999999999}", "(" * 5000 + ")" * 5000])
def test_a_bad_regular_expression_is_refused(expression):
    with pytest.raises(RecipeError, match=r"lora_target_modules=.* is no regular expression"):
        load_recipe("vicuna-7b-stage2", {"lora_target_modules": repr(expression)})
