"""However many processes share a batch, and whatever divides the step among them: the same weights, the same losses.

On real processes under torchrun, on gloo.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from pargo_mllm.data.feeding.collation import RowCollator
from pargo_mllm.files import what_is_wrong
from pargo_mllm.training.trainer.engines import EngineError, check_installed
from pargo_mllm.training.trainer.parts import freeze_all_but
from pargo_mllm.training.trainer.processes import Processes, ProcessesError
from pargo_mllm.training.trainer.settings import StageSettings
from pargo_mllm.training.trainer.stage_trainer import ParGoTrainer
from tests.mllm.made.mixtures import make_mixture
from tests.mllm.made.photographs import write_photographs
from tests.mllm.made.training_runs import (
    GENTLE,
    cache_in,
    changed,
    losses,
    mini1,
    mini2,
    torchrun,
    train,
    train_on,
    weights,
)

long = pytest.mark.long
needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory):
    """A folder with photographs, the cache, and what stage 2 starts from."""
    root = tmp_path_factory.mktemp("engines")
    write_photographs(root / "photographs", count=9)
    # deepspeed compiles for minutes, once a machine
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path.home() / ".cache" / "torch_extensions"))
    with cache_in(root / "cache"):
        assert train(*mini1(root / "photographs", root / "start", *GENTLE)) == 0
        yield root


def arguments(root, stage, output, *more):
    if stage == 1:
        return mini1(root / "photographs", output, *GENTLE, *more)
    return mini2(root / "photographs", root / "start", output, *GENTLE, *more)


@pytest.fixture(scope="module")
def one_process(root):
    """What one process ends with that computes the batch of 4 at once: gives its folder for a stage."""
    found = {1: root / "start"}

    def get(stage):
        if stage not in found:
            found[stage] = root / f"stage{stage}"
            assert train(*arguments(root, stage, found[stage])) == 0
            start, end = weights(root / "start"), weights(found[stage])
            for part in ("projector", "language_model"):
                # far from where it began: small differences are seen
                assert max(float((start[name] - end[name]).abs().max()) for name in start if part in name) > 0.05
        return found[stage]

    return get


ACCUMULATES = ("--micro-batch-size", "1")


@long
@pytest.mark.parametrize("tokens", ["auto", "all"])
@pytest.mark.parametrize(
    "more",
    [(), (*ACCUMULATES, "--gradient-checkpointing", "true"), ("--engine", "fsdp2"), ("--pack", "true", "--workers", "1")],
    ids=lambda more: " ".join(more) or "ddp",
)
def test_the_patch_loss_does_not_depend_on_the_division(root, patch_aligned, tmp_path, more, tokens):
    alone, run = patch_aligned(tokens)
    train_on(2, *arguments(root, 1, tmp_path / "two", *run, *more))
    assert any("projector" in name for name in changed(alone, root / "start"))
    torch.testing.assert_close(weights(tmp_path / "two"), weights(alone), rtol=0, atol=1e-5)
    for entry, expected in zip(patch_log(tmp_path / "two"), patch_log(alone), strict=True):
        assert entry == pytest.approx(expected, abs=1e-5)


def patch_log(folder):
    entries = json.loads((folder / "training_log.json").read_text())
    return [{name: entry[name] for name in ("loss", "caption_loss", "patch_loss")} for entry in entries]


@pytest.fixture(scope="module")
def patch_aligned(root):
    """What one process ends with, and the options for it."""
    found = {}

    def get(tokens):
        run = ("--patch-weight", "2", "--patch-ramp", "0.5", "--patch-threshold", "0.1", "--patch-tokens", tokens)
        run += ("--eval-steps", "6")
        if tokens not in found:
            found[tokens] = root / f"patches {tokens}"
            assert train(*arguments(root, 1, found[tokens], *run)) == 0
        return found[tokens], run

    return get


@pytest.fixture(scope="module")
def rounded(root):
    """What stage 2 starts from, encoder and language model in bf16, the head tied to the embeddings."""
    model = AutoModelForImageTextToText.from_pretrained(root / "start")
    model.config.text_config.tie_word_embeddings = model.config.tie_word_embeddings = True
    model.tie_weights()
    model.model.vision_tower.bfloat16()
    model.model.language_model.bfloat16()
    model.lm_head.bfloat16()
    model.tie_weights()
    model.save_pretrained(root / "rounded")
    AutoProcessor.from_pretrained(root / "start").save_pretrained(root / "rounded")
    return root / "rounded"


@pytest.mark.parametrize("engine", ["fsdp2", pytest.param("ddp", marks=long)])
def test_a_whole_language_model_trains_alike_in_every_division(root, rounded, tmp_path, engine):
    """In fp32, of which it starts in bf16; what was killed goes on with the same."""
    run = mini2(root / "photographs", rounded, tmp_path / "alone", *GENTLE, "--tuning", "full")
    assert train(*run) == 0
    found = weights(tmp_path / "alone")
    dtypes = {name.split(".")[1]: tensor.dtype for name, tensor in found.items()}
    assert dtypes == {"vision_tower": torch.bfloat16, "projector": torch.float32, "language_model": torch.float32}
    start = weights(rounded)
    moved = {name.split(".")[1] for name in found if not torch.equal(found[name], start[name].to(found[name].dtype))}
    assert moved == {"projector", "language_model"}
    run = mini2(root / "photographs", rounded, tmp_path / "two", *GENTLE, "--tuning", "full", "--engine", engine)
    assert "language_model" in train_on(2, *run)
    torch.testing.assert_close(weights(tmp_path / "two"), found, rtol=0, atol=1e-5)
    torch.testing.assert_close(losses(tmp_path / "two"), losses(tmp_path / "alone"), rtol=0, atol=1e-5)


@long
@pytest.mark.parametrize("more", [(), ("--gradient-checkpointing", "true")], ids=["", "checkpointing"])
@pytest.mark.parametrize("engine", ["fsdp2", "ddp"])
def test_experts_train_alike_in_every_division(root, tmp_path, engine, more):
    model, processor = make_mixture("mixtral")
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    run = [*GENTLE, "--lora-dropout", "0.0", *more]
    assert train(*mini2(root / "photographs", tmp_path / "start", tmp_path / "alone", *run)) == 0
    assert any("experts" in name for name in changed(tmp_path / "start", tmp_path / "alone"))
    train_on(2, *mini2(root / "photographs", tmp_path / "start", tmp_path / "two", *run, "--engine", engine))
    torch.testing.assert_close(weights(tmp_path / "two"), weights(tmp_path / "alone"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", [pytest.param("fsdp2", marks=long), pytest.param("ddp", marks=long)])
def test_frozen_weights_in_bf16_beside_lora_in_fp32(root, rounded, tmp_path, engine):
    run = mini2(root / "photographs", rounded, tmp_path / "two", *GENTLE, "--engine", engine)
    train_on(2, *run)
    dtypes = {name.split(".")[1]: tensor.dtype for name, tensor in weights(tmp_path / "two").items()}
    assert dtypes == {"vision_tower": torch.bfloat16, "projector": torch.float32, "language_model": torch.bfloat16}


@pytest.mark.parametrize(
    ("stage", "processes", "more"),
    [
        (2, 1, ("--micro-batch-size", "2")),
        (2, 2, ACCUMULATES),
        (2, 2, ("--engine", "fsdp2")),
        pytest.param(2, 2, (), marks=long),
        pytest.param(1, 1, ("--micro-batch-size", "2"), marks=long),
        pytest.param(1, 2, (), marks=long),
        pytest.param(1, 2, ACCUMULATES, marks=long),
        pytest.param(1, 2, ("--gradient-checkpointing", "true"), marks=long),
        pytest.param(2, 2, ("--gradient-checkpointing", "true", "--cache-features", "false"), marks=long),
        pytest.param(1, 2, ("--engine", "fsdp2"), marks=long),
        pytest.param(2, 1, ("--engine", "fsdp2"), marks=long),
        pytest.param(2, 2, ("--engine", "fsdp2", *ACCUMULATES, "--gradient-checkpointing", "true"), marks=long),
        pytest.param(2, 2, ("--engine", "fsdp2", "--cache-features", "false"), marks=long),
        pytest.param(1, 1, ("--engine", "zero2"), marks=[long, needs_deepspeed]),
        pytest.param(1, 2, ("--engine", "zero2"), marks=[long, needs_deepspeed]),
        pytest.param(2, 2, ("--engine", "zero2", *ACCUMULATES), marks=[long, needs_deepspeed]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_how_the_batch_is_divided_does_not_change_the_weights(root, one_process, tmp_path, stage, processes, more):
    run = arguments(root, stage, tmp_path / "out", *more)
    said = train_on(processes, *run) if processes > 1 else ""
    if processes == 1:
        assert train(*run) == 0
    else:
        engine = more[1] if "--engine" in more else "ddp"
        accumulation = 2 if "--micro-batch-size" in more else 1
        assert (
            said.count(f"engine {engine}, 2 processes: 4 examples a step = {2 // accumulation} at once x {accumulation}") == 1
        )
        assert said.count("finished: ") == 1, "the first process alone speaks"
    expected = one_process(stage)
    torch.testing.assert_close(weights(tmp_path / "out"), weights(expected), rtol=0, atol=1e-5)
    torch.testing.assert_close(losses(tmp_path / "out"), losses(expected), rtol=0, atol=1e-5)
    assert what_is_wrong(tmp_path / "out") is None
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@long
def test_sharded_in_bf16(root, tmp_path):
    """Frozen tensors in bf16 beside trained ones in fp32, gathered together."""
    AutoModelForImageTextToText.from_pretrained(root / "start", dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    AutoProcessor.from_pretrained(root / "start").save_pretrained(tmp_path / "half")
    run = mini2(root / "photographs", tmp_path / "half", tmp_path / "out", *GENTLE, "--bf16", "true")
    train_on(2, *run)
    whole = weights(shutil.move(tmp_path / "out", tmp_path / "whole"))
    train_on(2, *run, "--engine", "fsdp2")
    sharded = weights(tmp_path / "out")
    assert {tensor.dtype for name, tensor in sharded.items() if ".projector." in name} == {torch.float32}
    assert {tensor.dtype for name, tensor in sharded.items() if "vision_tower" in name} == {torch.bfloat16}
    for name, tensor in whole.items():
        # LoRA is folded into bf16: a unit in the last place of weights near 1
        torch.testing.assert_close(sharded[name], tensor, rtol=0, atol=1e-5 if tensor.dtype == torch.float32 else 2**-7)


@long
@pytest.mark.parametrize("killed", ["all", "one"])
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--engine", "fsdp2"),
        pytest.param(("--engine", "zero2"), marks=needs_deepspeed),
    ],
    ids=lambda value: value[-1] if value else "ddp",
)
def test_goes_on_after_kill(root, tmp_path, more, killed):
    """Two processes; dropout: every one has random numbers of its own to restore."""
    run = [*arguments(root, 2, tmp_path / "out", "--lora-dropout", "0.1", "--save-steps", "1"), *more]
    train_on(2, *run)
    whole = shutil.move(tmp_path / "out", tmp_path / "whole")
    process = subprocess.Popen(**torchrun(*run), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        checkpoints = tmp_path / ".out.partial" / "checkpoints"
        wait_for(lambda: any(checkpoints.glob("checkpoint-[4-9]")), process)
        if killed == "one":
            # as when memory runs out on one machine: the others must not wait for it
            os.kill(workers(process.pid)[1], signal.SIGKILL)
            said, _ = process.communicate(timeout=120)
            assert process.returncode != 0
            assert "Signal 9 (SIGKILL)" in said
    finally:
        kill(process)
    assert not (tmp_path / "out").exists()
    assert "goes on from checkpoint at step" in train_on(2, *run)
    assert changed(whole, tmp_path / "out") == set()
    assert losses(whole) == losses(tmp_path / "out")


def kill(process):
    """kill -9 of everything that torchrun started, and of itself."""
    for pid in [] if process.poll() is not None else workers(process.pid).values():
        os.kill(pid, signal.SIGKILL)
    process.kill()
    process.communicate()


def wait_for(condition, process):
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def workers(torchrun):
    """Process numbers by rank."""
    children = [int(pid) for pid in Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()]
    ranks = {}
    for pid in children:
        variables = dict(line.split("=", 1) for line in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in line)
        if "RANK" in variables:
            ranks[int(variables["RANK"])] = pid
    return ranks


@long
def test_goes_on_with_another_number_of_processes(root, one_process, tmp_path):
    run = arguments(root, 2, tmp_path / "out", "--save-steps", "1")
    process = subprocess.Popen(**torchrun(*run), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: any((tmp_path / ".out.partial" / "checkpoints").glob("checkpoint-[4-9]")), process)
    finally:
        kill(process)
    # the machine is gone, half of the processes remain
    done = subprocess.run([sys.executable, "-m", "pargo_mllm", "train", *map(str, run)], capture_output=True, text=True)
    assert done.returncode == 0
    assert "written by 2 processes: 1 read the same pictures" in done.stdout + done.stderr
    torch.testing.assert_close(weights(tmp_path / "out"), weights(one_process(2)), rtol=0, atol=1e-5)


def test_what_cannot_run_is_said_once(root, tmp_path):
    run = arguments(root, 2, tmp_path / "out", "--batch-size", "5")
    done = subprocess.run(**torchrun(*run), capture_output=True, timeout=120)
    assert done.returncode != 0
    says = "batch_size=5 cannot be divided among 2 processes; choose a multiple"
    assert done.stderr.count(f"pargo train: {says}") == 1
    report = done.stderr.split("Root Cause")[1]
    assert "exitcode  : 2 " in report
    assert f"RecipeError: {says}" in report
    assert list(tmp_path.iterdir()) == []


@long
@needs_deepspeed
def test_another_engine_than_was_asked_for_ends_the_run(root, tmp_path):
    run = arguments(root, 1, tmp_path / "out")
    # what accelerate's launcher would have set
    foreign = {"ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(**torchrun(*run, **foreign), capture_output=True, timeout=300)
    assert done.returncode != 0
    assert "engine='ddp' with 2 processes was asked for, but 'zero2' with 2 came out" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "came_out"),
    [({"processes": 2}, "'ddp' with 1"), ({"engine": "fsdp2"}, "'ddp' with 1")],
    ids=["one process only", "not sharded"],
)
def test_engine_is_what_was_asked_for(make_model, processor, tmp_path, settings, came_out):
    """A trainer that was not given what its engine needs."""
    settings = StageSettings(steps=1, batch_size=2, learning_rate=1e-3, bf16=False, **settings)
    model = make_model()
    freeze_all_but(model, "projector")
    alone = replace(settings, engine="ddp", processes=1).training_arguments(tmp_path)
    collate = RowCollator(processor.tokenizer.pad_token_id, pack=False)
    trainer = ParGoTrainer(model=model, args=alone, settings=settings, train_dataset=[0, 1], data_collator=collate)
    says = f"engine='{settings.engine}' with {settings.processes} processes was asked for, but {came_out} came out"
    with pytest.raises(EngineError, match=says):
        trainer.train()


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is not None, reason="deepspeed is installed")
def test_missing_engine_is_said(root, tmp_path, capsys):
    assert train(*arguments(root, 1, tmp_path / "out", "--engine", "zero2")) == 2
    assert "engine='zero2' needs deepspeed, which is not installed: pip install 'pargo[deepspeed]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(EngineError, match="--engine fsdp2"):
        check_installed("zero2")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Processes(0, 1, 0)),
        ({"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}, Processes(9, 16, 1)),
        ({"WORLD_SIZE": "16"}, "RANK=None, WORLD_SIZE=16, LOCAL_RANK=None: all of them must be numbers"),
        ({"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK=x"),
    ],
)
def test_processes_of_environment(monkeypatch, variables, expected):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if isinstance(expected, Processes):
        assert Processes.of_environment() == expected
    else:
        with pytest.raises(ProcessesError, match=expected):
            Processes.of_environment()
