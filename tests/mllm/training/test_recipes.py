"""Recipes: the packaged ones at the paper's sizes, one's own, and what none may say."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pargo_mllm.cli import main
from pargo_mllm.data.scenes.corpus import Scenes
from pargo_mllm.errors import UserError
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


@pytest.mark.parametrize(
    "model", [model if model == "vicuna-7b" else pytest.param(model, marks=pytest.mark.long) for model in PAPER]
)
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


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has that takes memory."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        kept = [leaf.numel() for leaf in tree_leaves(out) if type(leaf) is torch.Tensor and leaf.device.type != "meta"]
        self.numbers = max([self.numbers, *kept])
        return out


@pytest.mark.parametrize("stage", [1, 2])
def test_dry_run_makes_no_weights(stage, capsys):
    with Largest() as largest:
        assert train(f"vicuna-7b-stage{stage}", "--dry-run") == 0
    # a hundredth of what LoRA's matrices hold in one layer
    assert largest.numbers < 200_000


def test_every_recipe_is_known():
    models = {f"{model}-stage{stage}" for model in PAPER for stage in (1, 2)}
    assert set(names()) == {"mini-stage1", "mini-stage2", "stage1", "stage2", *models}


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
        ("extends: 5", "extends=5 must be the name of a packaged recipe"),
        ("extends:", "extends=None must be the name of a packaged recipe"),
        ("steps: " + "[" * 100_000, "cannot be read as YAML"),
        ("steps: " + "9" * 5000, "cannot be read as YAML"),
        ("data: 2020-99-99", "cannot be read as YAML"),
        ('extends: mini-stage1\ndata: "a\\0b"', "must be a path; it holds what no path can"),
        ('extends: mini-stage1\ndata: "\\ud800"', "must be a path; it holds what no path can"),
        (f"extends: mini-stage1\ndata: scenes:seed={'9' * 5000}", "must be a whole number from 0 to"),
        ("extends: mini-stage1\ndata:", "data: an empty value must be a path"),
        ("extends: mini-stage1\ndata: ''", "data: an empty value must be a path"),
        ("extends: mini-stage1\ndata: ' '", "data: ' ' must be a path"),
        ("extends: mini-stage1\ndata: [a, ]\nmodel: ''", "model='' must be a path; it is empty"),
        ("extends: mini-stage1\ndata: [a, '']", "data: an empty value must be a path"),
        ("extends: mini-stage1\ndata: [{path: ''}]", "data: {'path': ''} must be a path"),
        ("extends: mini-stage1\ndata: [{weight: 1}]", "data: {'weight': 1} must be a path"),
        ("extends: mini-stage1\ndata: [[a]]", "data: ['a'] must be a path"),
        ("extends: mini-stage1\ndata: []", "data=[] must name at least one path"),
        ("extends: mini-stage1\ndata: [true]", "data path=True must be a path"),
        ("extends: mini-stage1\ndata: [{path: a, image_root: ''}]", "data image_root='' must be a path; it is empty"),
        ("stage: [", "cannot be read as YAML"),
        ("- 1", "must hold keys and values"),
        ("[" * 3000, "cannot be read as YAML"),
        ("extends: mini-stage1\nseed: 1\nseed: 2", "mine.yaml cannot be read as YAML: seed is given twice, in lines 2 and 3"),
        ("{stage: 1, steps: 1, stage: 1}", "stage is given twice, in line 1"),
        ("extends: vicuna-7b-stage1\narchitecture:\n  text_config:\n    a: 1\n    a: 2", "a is given twice, in lines 4 and 5"),
        ("extends: mini-stage1\ndata:\n- path: a\n  path: b", "path is given twice, in lines 3 and 4"),
        ("extends: mini-stage1\nmodel: a\nminiature: tiny", "model='a', miniature='tiny': they take each other's place"),
        ("extends: mini-stage1\nlora_rank: 4", "lora_rank=4 is for stage 2"),
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


def test_a_key_of_its_own_beside_those_of_an_anchor_is_no_second_time(tmp_path):
    text = "extends: vicuna-7b-stage1\narchitecture:\n  text_config: &text {a: 1, b: 2}\n  vision_config: {<<: *text, a: 3}\n"
    (tmp_path / "mine.yaml").write_text(text)
    assert load_recipe(str(tmp_path / "mine.yaml")).architecture["vision_config"] == {"a": 3, "b": 2}


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"model": "a"}, {"model": Path("a"), "miniature": None}),
        ({"model": "null"}, {"model": None, "miniature": "demo"}),
        ({"miniature": "tiny"}, {"model": None, "miniature": "tiny"}),
        ({"architecture": "{}"}, {"architecture": {}, "miniature": None}),
        ({"epochs": "3"}, {"epochs": 3, "steps": None}),
    ],
)
def test_what_is_said_later_takes_the_place_of_what_it_stands_for(changes, left):
    recipe = load_recipe("mini-stage1", changes)
    assert {name: getattr(recipe, name) for name in left} == left


def test_a_list_of_data_takes_paths_as_they_are():
    """What stands alone in it is a path, as if it stood alone."""
    text = "[a/list.json, 'scenes:seed=2', 2017, {path: b}, {path: scenes, seed: 2}]"
    sources = [part.source for part in load_recipe("mini-stage1", {"data": text}).data]
    assert sources == [Path("a/list.json"), Scenes(seed=2), Path("2017"), Path("b"), Scenes(seed=2)]


@pytest.mark.parametrize("key", ["data", "model", "projector", "image_root", "steps", "output"])
def test_an_empty_value_is_no_choice(key):
    with pytest.raises(RecipeError, match=f"{key}='' is empty; give a value"):
        load_recipe("mini-stage1", {key: ""})


MIXTURE = b"""extends: vicuna-7b-stage2
data:
  - {path: llava/list.json, weight: 0.7, image_root: /pictures}
  - {path: scenes, seed: 1, train: 5000, weight: 0.1}
held_out: 0.005
output: run/x
"""


@pytest.mark.parametrize("cases", [50, pytest.param(2000, marks=pytest.mark.long)])
def test_damaged_recipes_end_in_errors_that_can_be_mended(tmp_path, cases):
    refused = 0
    for case in range(cases):
        rng = np.random.default_rng([2, case])
        content = bytearray(MIXTURE)
        for place in rng.integers(0, len(content), rng.integers(1, 9)):
            # half of them signs that mean something
            content[place] = rng.integers(0, 256) if rng.integers(2) else b"[]{}:,&*!|>'\"%@`-? \n\t#0.9eE"[rng.integers(27)]
        (tmp_path / "mine.yaml").write_bytes(content)
        try:
            load_recipe(str(tmp_path / "mine.yaml")).identity()
        except UserError:
            refused += 1
    assert refused > cases / 3


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
