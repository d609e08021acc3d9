"""pargo train through the command line: recipes, two stages in sequence, resumption, errors."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from pargo_mllm.configuration import PROJECTORS
from pargo_mllm.files import what_is_wrong
from pargo_mllm.miniature.start import MiniatureStart
from pargo_mllm.training.recipes import load_recipe, names
from pargo_mllm.training.start import FolderStart
from tests.mllm.made.photographs import write_photographs
from tests.mllm.made.training_runs import GENTLE, cache_in, changed, losses, mini1, mini2, train, weights

PAPER = {"vicuna-7b": 6_738_415_616, "llama-3-8b": 8_030_261_248, "internlm2-7b": 7_737_708_544}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("data") / "photographs", count=9)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with cache_in(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def stages(data, tmp_path_factory):
    """Folders of both stages, trained without interruption."""
    root = tmp_path_factory.mktemp("run")
    assert train(*mini1(data, root / "stage1")) == 0
    # dropout: resumption must restore the random numbers too
    assert train(*mini2(data, root / "stage1", root / "stage2", "--lora-dropout", "0.1")) == 0
    return root / "stage1", root / "stage2"


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


def test_dry_run_computes_nothing(stages, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert train(*mini1(data, tmp_path / "out", "--dry-run")) == 0
    assert train(*mini2(data, stages[0], tmp_path / "out", "--dry-run")) == 0
    assert list(tmp_path.iterdir()) == []


def test_two_stages(stages, data, capsys):
    stage1, stage2 = stages
    for folder in stages:
        assert what_is_wrong(folder) is None
        assert not (folder / "trainer").exists()
        assert not list(folder.parent.glob(".*.partial"))
        AutoProcessor.from_pretrained(folder)
        AutoModelForImageTextToText.from_pretrained(folder)
    moved = changed(stage1, stage2)
    assert {name for name in weights(stage1) if ".projector." in name} & moved
    linear = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert {name.split(".")[-2] for name in moved if ".language_model." in name} == set(linear)
    assert not [name for name in moved if "vision_tower" in name or "lm_head" in name or "embed" in name]


def test_stage_1_moves_the_projector_alone(stages, data, tmp_path):
    # the learning rate decides nothing that is frozen
    assert train(*mini1(data, tmp_path / "other", "--learning-rate", "1e-5")) == 0
    moved = changed(stages[0], tmp_path / "other")
    assert moved
    assert all(".projector." in name for name in moved)


def test_again_is_finished(stages, data, capsys):
    written = (stages[0] / "manifest.json").stat().st_mtime_ns
    assert train(*mini1(data, stages[0])) == 0
    said = capsys.readouterr()
    assert "finished already" in said.out + said.err
    assert (stages[0] / "manifest.json").stat().st_mtime_ns == written
    assert train(*mini1(data, stages[0], "--learning-rate", "0.5")) == 2
    assert "was trained with learning_rate=0.002, not 0.5" in capsys.readouterr().err


def test_goes_on_from_the_newest_checkpoint_that_is_whole(stages, data, tmp_path, monkeypatch, capsys):
    arguments = mini2(data, stages[0], tmp_path / "out", "--lora-dropout", "0.1")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pargo_mllm.training.stages.save", stop)
        assert train(*arguments) == 130
    checkpoints = tmp_path / ".out.partial" / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"checkpoint-8", "checkpoint-12"}
    # the disk damages the newest one
    (checkpoints / "checkpoint-12" / "trained.safetensors").write_bytes(b"half")
    assert train(*arguments, "--learning-rate", "0.5") == 2
    assert "was begun with learning_rate=0.002, not 0.5" in capsys.readouterr().err
    assert train(*arguments) == 0
    said = capsys.readouterr()
    assert "checkpoint-12 is not used: trained.safetensors is not what was written" in said.out + said.err
    assert "goes on from checkpoint at step 8\n" in said.out + said.err
    assert changed(stages[1], tmp_path / "out") == set()
    assert losses(stages[1]) == losses(tmp_path / "out")


def test_checkpoints_hold_what_trains(stages, data, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("pargo_mllm.training.run.write_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert train(*mini1(data, tmp_path / "out")) == 130
    trained = load_file(tmp_path / ".out.partial" / "checkpoints" / "checkpoint-12" / "trained.safetensors")
    last = weights(stages[0])
    assert set(trained) == {name for name in last if ".projector." in name}
    assert all(torch.equal(tensor, last[name]) for name, tensor in trained.items())


def test_stopped_between_training_and_the_finished_folder(stages, data, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pargo_mllm.training.run.write_manifest", stop)
        assert train(*mini1(data, tmp_path / "out")) == 130
    assert not (tmp_path / "out").exists()
    assert train(*mini1(data, tmp_path / "out")) == 0
    assert changed(stages[0], tmp_path / "out") == set()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture(scope="module")
def gentle(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("gentle")
    assert train(*mini1(data, root / "whole", *GENTLE)) == 0
    still = ["--learning-rate", "1e-12", "--projector-learning-rate", "1e-12"]
    assert train(*mini1(data, root / "start", *still)) == 0
    whole, start = weights(root / "whole"), weights(root / "start")
    assert max(float((whole[name] - start[name]).abs().max()) for name in whole) > 0.1
    return root / "whole"


@pytest.mark.parametrize(
    "more",
    [
        ["--micro-batch-size", "1"],
        ["--cache-features", "false"],
        ["--gradient-checkpointing", "true"],
        ["--attention", "sdpa"],
        ["--projector-attention", "sdpa"],
        pytest.param(["--compile-projector", "true"], marks=pytest.mark.long),
    ],
    ids=lambda more: more[0],
)
def test_how_it_is_computed_does_not_change_the_weights(gentle, data, tmp_path, more):
    assert train(*mini1(data, tmp_path / "other", *GENTLE, *more)) == 0
    torch.testing.assert_close(weights(tmp_path / "other"), weights(gentle), rtol=0, atol=1e-5)
    torch.testing.assert_close(losses(tmp_path / "other"), losses(gentle), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("bf16", "cached"), [("true", "true"), ("false", "false")])
def test_model_saved_in_bf16(stages, data, tmp_path, bf16, cached):
    AutoModelForImageTextToText.from_pretrained(stages[0], dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    AutoProcessor.from_pretrained(stages[0]).save_pretrained(tmp_path / "half")
    more = ["--bf16", bf16, "--cache-features", cached, "--steps", "2"]
    assert train(*mini2(data, tmp_path / "half", tmp_path / "out", *more)) == 0
    half, out = weights(tmp_path / "half"), weights(tmp_path / "out")
    # rates far below the steps of bf16 would be lost in bf16
    assert {out[name].dtype for name in out if ".projector." in name} == {torch.float32}
    frozen = [name for name in out if "vision_tower" in name or "lm_head" in name]
    assert frozen
    assert all(torch.equal(out[name].float(), half[name].float()) for name in frozen)


def test_paper_recipes_train_a_small_model(stages, data, tmp_path):
    # bf16, checkpointing, accumulation, dropout and a cosine with an end, as the recipes have them
    small = [
        "--data",
        data,
        "--workers",
        "0",
        "--report-to",
        "none",
        "--steps",
        "2",
        "--warmup-steps",
        "0",
        "--batch-size",
        "4",
        "--micro-batch-size",
        "2",
    ]
    small += ["--engine", "ddp"]
    first, second = tmp_path / "stage1", tmp_path / "stage2"
    assert train("vicuna-7b-stage1", "--model", stages[0], "--output", first, *small) == 0
    assert train("vicuna-7b-stage2", "--model", first, "--output", second, *small, "--lora-rank", "4") == 0
    assert changed(stages[0], first)
    assert all(".projector." in name for name in changed(stages[0], first))
    assert any(".language_model." in name for name in changed(first, second))


SCENES = ["--data", "scenes:train=20,held_out=6", "--steps", "2", "--batch-size", "4", "--bf16", "false", "--report-to", "none"]


@pytest.mark.parametrize("projector", PROJECTORS)
def test_every_projector_learns_from_scenes(projector, tmp_path):
    """From stage 0, and from a folder whose projector is another one; stage 2 goes on with it."""
    start = ["mini-stage1", "--miniature", "tiny", *SCENES]
    assert train(*start, "--projector", projector, "--output", tmp_path / "stage1") == 0
    config = AutoConfig.from_pretrained(tmp_path / "stage1")
    assert config.projector_config.projector_type == projector
    other = "mlp" if projector != "mlp" else "{projector_type: pargo, num_partial_tokens: 8}"
    again = ["mini-stage1", "--model", tmp_path / "stage1", *SCENES, "--projector", other, "--output", tmp_path / "other"]
    assert train(*again) == 0
    changed = AutoConfig.from_pretrained(tmp_path / "other")
    assert changed.projector_config.projector_type == ("mlp" if projector != "mlp" else "pargo")
    assert changed.num_image_tokens == (64 if projector != "mlp" else 8 + 4)
    # what is not the projector stays, bit by bit
    first, second = weights(tmp_path / "stage1"), weights(tmp_path / "other")
    rest = {name for name in first if ".projector." not in name}
    assert rest == {name for name in second if ".projector." not in name}
    assert all(torch.equal(first[name], second[name]) for name in rest)
    stage2 = ["mini-stage2", "--model", tmp_path / "other", *SCENES, "--lora-rank", "2", "--output", tmp_path / "stage2"]
    assert train(*stage2) == 0
    assert AutoProcessor.from_pretrained(tmp_path / "stage2").num_image_tokens == changed.num_image_tokens


def test_mixtures_take_scenes_too(data, stages, tmp_path, capsys):
    mixture = f"[{{path: {data}, weight: 1}}, {{path: scenes, train: 9, seed: 4, weight: 2}}]"
    run = ["mini-stage2", "--model", stages[0], *SCENES, "--data", mixture, "--eval-steps", "1", "--output", tmp_path / "out"]
    assert train(*run) == 0
    assert "held-out loss" in "".join(capsys.readouterr())
    # the same command finds it finished, another number of scenes is refused
    assert train(*run) == 0
    assert train(*[word.replace("train: 9", "train: 8") if isinstance(word, str) else word for word in run]) == 2
    said = capsys.readouterr().err
    assert "was trained with content=" in said
    assert "'train': 9" in said


def test_own_recipe(tmp_path, data, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"extends": "mini-stage1", "miniature": "tiny", "epochs": 3, "data": str(data)}))
    recipe = load_recipe(str(file), {"learning_rate": "1e-4"})
    assert (recipe.epochs, recipe.steps, recipe.learning_rate, recipe.miniature) == (3, None, 1e-4, "tiny")
    # 3 epochs of 33 pictures, 16 at a time
    assert recipe.settings(33, "cpu").steps == 9


STAGE2 = ["mini-stage2", "--data", "{data}", "--model", "{stage1}", "--output", "{out}"]
ERRORS = {
    "unknown recipe": (["vicuna"], "vicuna is neither a recipe"),
    "no data": (["mini-stage2", "--model", "{stage1}", "--output", "{out}"], "--data is missing"),
    "no output": (["mini-stage1", "--data", "{data}"], "--output is missing"),
    "no model": (["vicuna-7b-stage1", "--data", "{data}", "--output", "{out}"], "--model is missing"),
    "stage 2 from nothing": (["mini-stage2", "--dry-run"], "--model is missing"),
    "data absent": (["mini-stage1", "--data", "{out}", "--output", "{out}"], "does not exist; data must be a COCO-style"),
    "model absent": (["mini-stage2", "--data", "{data}", "--model", "{out}", "--output", "{out}"], "has no config.json"),
    "output taken": (["mini-stage1", "--data", "{data}", "--output", "{data}"], "exists and is no finished training"),
    "type": (["vicuna-7b-stage1", "--dry-run", "--steps", "many"], "steps='many' must be a whole number"),
    "number": (["vicuna-7b-stage1", "--dry-run", "--learning-rate", "fast"], "learning_rate='fast' must be a number"),
    "rate": (["mini-stage1", "--learning-rate", "-1"], "learning_rate=-1.0 must be positive"),
    "not a rate": (["mini-stage1", "--learning-rate", "nan"], "learning_rate=nan must be positive"),
    "split": (["mini-stage1", "--micro-batch-size", "3"], "micro_batch_size=3 does not divide batch_size=16"),
    "engine": (["mini-stage1", "--engine", "zero3"], "engine='zero3' is unknown; it must be one of ddp, zero2, fsdp2"),
    "tracker": (
        [*STAGE2, "--report-to", "paper"],
        "report_to='paper' is unknown or not installed",
    ),
    "flash": (
        [*STAGE2, "--attention", "flash_attention_2"],
        "give --attention sdpa where they are not",
    ),
    "projector's attention": (["mini-stage1", "--projector-attention", "flash"], "projector_attention='flash' is unknown"),
    "two lengths": (["mini-stage1", "--steps", "2", "--epochs", "2"], "exactly one of the two"),
    "warm-up": (["vicuna-7b-stage1", "--dry-run", "--steps", "10"], "warmup_steps=2000 must lie in [0, steps=10)"),
    "miniature": (["mini-stage1", "--miniature", "huge"], "miniature='huge' is unknown"),
    "stage": (["mini-stage1", "--stage", "3"], "stage=3 must be 1 or 2"),
    "seed": (["mini-stage1", "--seed", "-1"], "seed=-1 must be at least 0"),
    "projector's type": (["mini-stage1", "--projector", "qfromer"], "projector: projector_type='qfromer'"),
    "projector's options": (
        ["mini-stage1", "--projector", "{{num_partial: 3}}"],
        "'num_partial' is unknown; num_partial_tokens?",
    ),
    "projector's number": (["mini-stage1", "--projector", "7"], "projector=7 must be a type (pargo, qformer"),
    "projector's width": (["mini-stage1", "--projector", "{{vision_hidden_size: 5}}"], "'vision_hidden_size' is unknown"),
    "projector that cannot be": (
        [
            "mini-stage1",
            "--data",
            "scenes",
            "--dry-run",
            "--projector",
            "{{projector_type: c_abstractor, num_partial_tokens: 7}}",
        ],
        "projector: ",
    ),
    "projector of stage 2": ([*STAGE2, "--projector", "mlp"], "projector is for stage 1; stage 2 goes on with"),
    "scenes": (["mini-stage1", "--data", "scenes:tain=3", "--dry-run"], "scenes: 'tain' is no option"),
    "scenes twice": (
        ["mini-stage1", "--data", "[{{path: 'scenes:seed=1', seed: 2}}]"],
        "options in its name and as keys (seed)",
    ),
    "options of a path": (["mini-stage1", "--data", "[{{path: a, seed: 2}}]"], "'seed' is no key of a; a path has a weight"),
    "scenes by word": (["mini-stage1", "--data", "[{{path: scenes, train: many}}]"], "train='many' must be a whole number"),
    "LoRA target": (["vicuna-7b-stage2", "--dry-run", "--lora-target-modules", "no_such"], "lora_target_modules: "),
    "LoRA rank": (["vicuna-7b-stage2", "--dry-run", "--lora-rank", "0"], "lora_rank=0 must be at least 1"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case, stages, data, tmp_path, capsys, monkeypatch):
    for start in (FolderStart, MiniatureStart):
        monkeypatch.setattr(start, "load", lambda *_: pytest.fail("a model was loaded"))
    arguments, says = ERRORS[case]
    assert train(*(word.format(data=data, out=tmp_path / "out", stage1=stages[0]) for word in arguments)) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


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


def test_damaged_output_is_not_taken_for_finished(stages, data, tmp_path, capsys):
    shutil.copytree(stages[0], tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"")
    assert train(*mini1(data, tmp_path / "copy")) == 2
    assert "model.safetensors is not what was written" in capsys.readouterr().err


def test_what_a_folder_leaves_out_is_said(stages, data, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "data")
    captions = json.loads((data / "captions.json").read_text())
    captions["annotations"].append({"image_id": 99, "caption": "of no image"})
    (tmp_path / "data" / "captions.json").write_text(json.dumps(captions))
    assert train(*mini2(tmp_path / "data", stages[0], tmp_path / "out", "--steps", "1")) == 0
    said = "".join(capsys.readouterr())
    assert f"skipped 1 entries of {tmp_path / 'data'}: captions that are empty or of no listed image" in said


def test_a_folder_without_a_readable_picture(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(data, tmp_path / "data")
    for picture in (tmp_path / "data" / "images").iterdir():
        picture.write_bytes(b"no picture")
    assert train(*mini1(tmp_path / "data", tmp_path / "out")) == 2
    said = capsys.readouterr().err
    assert "train pictures can be read" in said
    assert "Traceback" not in said


def test_unreadable_pictures_and_long_ones(data, tmp_path, capsys):
    assert train(*mini1(data, tmp_path / "out", "--max-length", "3")) == 2
    said = capsys.readouterr()
    assert "none of the first" in said.err
    assert "tokens are more than max_length=3" in said.err
    # nothing was left that a shorter recipe could take for its own
    assert json.loads((tmp_path / ".out.partial" / "started.json").read_text())["max_length"] == 3
