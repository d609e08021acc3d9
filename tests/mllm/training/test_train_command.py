"""pargo train through the command line: two stages in sequence, resumption, errors."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from pargo_mllm.files import what_is_wrong
from pargo_mllm.miniature.start import MiniatureStart
from pargo_mllm.training.start import FolderStart
from tests.mllm.made.photographs import write_photographs
from tests.mllm.made.training_runs import GENTLE, cache_in, changed, losses, mini1, mini2, train, weights


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
        patched.setattr("pargo_mllm.training.run_folder.write_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert train(*mini1(data, tmp_path / "out")) == 130
    trained = load_file(tmp_path / ".out.partial" / "checkpoints" / "checkpoint-12" / "trained.safetensors")
    last = weights(stages[0])
    assert set(trained) == {name for name in last if ".projector." in name}
    assert all(torch.equal(tensor, last[name]) for name, tensor in trained.items())


def test_stopped_between_training_and_the_finished_folder(stages, data, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pargo_mllm.training.run_folder.write_manifest", stop)
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
    small += ["--engine", "ddp", "--max-length", "512"]
    first, second = tmp_path / "stage1", tmp_path / "stage2"
    assert train("vicuna-7b-stage1", "--model", stages[0], "--output", first, *small) == 0
    assert train("vicuna-7b-stage2", "--model", first, "--output", second, *small, "--lora-rank", "4") == 0
    assert changed(stages[0], first)
    assert all(".projector." in name for name in changed(stages[0], first))
    assert any(".language_model." in name for name in changed(first, second))


def test_mixtures_take_scenes_too(data, stages, tmp_path, capsys):
    mixture = f"[{{path: {data}, weight: 1}}, {{path: scenes, train: 9, seed: 4, weight: 2}}]"
    run = [
        "mini-stage2",
        "--model",
        stages[0],
        "--steps",
        "2",
        "--batch-size",
        "4",
        "--bf16",
        "false",
        "--report-to",
        "none",
        "--data",
        mixture,
        "--eval-steps",
        "1",
        "--output",
        tmp_path / "out",
    ]
    assert train(*run) == 0
    assert "held-out loss" in "".join(capsys.readouterr())
    # the same command finds it finished, another number of scenes is refused
    assert train(*run) == 0
    assert train(*[word.replace("train: 9", "train: 8") if isinstance(word, str) else word for word in run]) == 2
    said = capsys.readouterr().err
    assert "was trained with data=" in said
    assert "scenes:seed=4,train=9" in said


STAGE1 = ["mini-stage1", "--data", "{data}", "--model", "{stage1}", "--output", "{out}"]
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
    "two lengths": (["mini-stage1", "--steps", "2", "--epochs", "2"], "exactly one"),
    "two beginnings": (
        ["mini-stage1", "--miniature", "tiny", "--model", "{stage1}"],
        "model='{stage1}', miniature='tiny': they take each other's place; give exactly one",
    ),
    "two warm-ups": (["mini-stage1", "--warmup", "0.1", "--warmup-steps", "3"], "warmup=0.1, warmup_steps=3: they take"),
    "a key twice in data": (["mini-stage1", "--data", "[{{path: a, path: b}}]"], "path is given twice, in line 1"),
    "a key twice": (["mini-stage1", "--projector", "{{edge: clamp, edge: truncate}}"], "edge is given twice, in line 1"),
    "a folder of scenes": (
        ["mini-stage1", "--data", "./scenes", "--dry-run"],
        "the folder ./scenes does not exist; write scenes",
    ),
    "more than the positions": (
        ["vicuna-7b-stage1", "--dry-run", "--max-length", "4097"],
        "max_length=4097 exceeds the 4096 positions",
    ),
    "less than a picture": (
        ["vicuna-7b-stage1", "--dry-run", "--max-length", "304"],
        "max_length=304 leaves no room beside a picture, which takes 304",
    ),
    "less than a picture of a folder": ([*STAGE2, "--max-length", "5"], "max_length=5 leaves no room beside a picture"),
    "what a projector does not read": (
        [*STAGE1, "--projector", "{{projector_type: mlp, num_partial_tokens: 3}}"],
        "num_partial_tokens=3 changes nothing: mlp does not read it",
    ),
    "what the model's own projector does not read": (
        [*STAGE1, "--projector", "{{num_sampling_points: 3}}"],
        "num_sampling_points=3 changes nothing: pargo does not read it",
    ),
    "workers": ([*STAGE2, "--workers", "100000"], "workers=100000 are too many for"),
    "negative workers": (["mini-stage1", "--workers", "-1"], "workers=-1 must be at least 0"),
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
    assert says.replace("{stage1}", str(stages[0])) in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


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
    assert train(*mini1(data, tmp_path / "out", "--max-length", "37")) == 2
    said = capsys.readouterr()
    assert "none of the first" in said.err
    assert "tokens are more than max_length=37" in said.err
    # nothing was left that a shorter recipe could take for its own
    assert json.loads((tmp_path / ".out.partial" / "started.json").read_text())["max_length"] == 37
