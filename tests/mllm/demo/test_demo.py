"""pargo demo through the command line, at the scale that learns nothing and runs everything."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from pargo_mllm.cli import main
from pargo_mllm.data.scenes.corpus import SceneCorpus
from pargo_mllm.demo.run import DemoOptions, collect, prepare, train
from pargo_mllm.miniature.sizes import SCALES
from tests.mllm.made.photographs import write_photographs


def demo(*arguments):
    return main(["demo", "--scale", "tiny", "--device", "cpu", *map(str, arguments)])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """(results, output folder, cache) of one uninterrupted run on generated scenes."""
    root = tmp_path_factory.mktemp("demo")
    assert demo("--out", root / "out", "--cache", root / "cache", "--compare", "qformer") == 0
    return json.loads((root / "out" / "results.json").read_text()), root / "out", root / "cache"


def asked(split):
    corpus = SceneCorpus(SCALES["tiny"].scenes, 2, split)
    return [question for index in range(len(corpus)) for question in corpus.said(index)]


def phase(cache, name):
    (folder,) = cache.glob(f"{name}-*")
    return folder


def weights(folder, part):
    tensors = load_file(folder / "model.safetensors")
    return {name: tensor for name, tensor in tensors.items() if part in name.split(".")}


def equal(first, second):
    assert set(first) == set(second)
    assert first
    return [torch.equal(first[name], second[name]) for name in first]


def test_results(scenes):
    results, out, _ = scenes
    kinds = Counter(question.kind for question in asked("test"))
    assert results["data"]["questions"] == sum(kinds.values())
    assert [projector["name"] for projector in results["projectors"]] == ["ParGo", "Q-Former"]
    for projector in results["projectors"]:
        assert projector["tokens"] == 36
        for stage in ("before", "stage1", "stage2"):
            score = projector[stage]
            # every share is a whole number of questions of its kind
            assert set(score["kinds"]) == set(kinds)
            for kind, share in score["kinds"].items():
                assert share * kinds[kind] == pytest.approx(round(share * kinds[kind]), abs=1e-9)
            assert score["mean"] == pytest.approx(np.mean(list(score["kinds"].values())))
        assert [entry["step"] for entry in projector["loss"]["stage2"]] == [1, 2, 3]
    assert results["attention"] == ["attention_scene.png", "attention_photograph.png"]
    for name in ("report.html", "accuracy.png", *results["attention"]):
        assert (out / name).stat().st_size > 1000


def test_constant_baseline(scenes):
    results, _, _ = scenes
    told = {split: [(question.kind, question.answer) for question in asked(split)] for split in ("train", "test")}
    for kind, share in results["baselines"]["constant"]["kinds"].items():
        counts = Counter(answer for other, answer in told["train"] if other == kind)
        answers = [answer for other, answer in told["test"] if other == kind]
        # ties may be broken either way
        best = {answer for answer, count in counts.items() if count == max(counts.values())}
        assert any(share == pytest.approx(answers.count(answer) / len(answers)) for answer in best)


def test_what_each_stage_trains(scenes):
    _, out, cache = scenes
    stage1, stage2 = out / "models" / "pargo" / "stage1", out / "models" / "pargo" / "stage2"
    encoder = load_file(phase(cache, "stage0-encoder") / "encoder" / "model.safetensors")
    for stage in (stage1, stage2):
        seen = weights(stage, "vision_tower")
        assert all(torch.equal(tensor, encoder[name.split("vision_tower.")[1]]) for name, tensor in seen.items())
        assert len(seen) == len(encoder)
    told = load_file(phase(cache, "stage0-language") / "llm" / "model.safetensors")
    after = weights(stage1, "language_model")
    assert all(torch.equal(tensor, told["model." + name.split("language_model.")[1]]) for name, tensor in after.items())
    assert not any(equal(weights(stage1, "projector"), weights(stage2, "projector")))
    adapted = weights(stage2, "language_model")
    changed = {name.split(".")[-2] for name in after if not torch.equal(after[name], adapted[name])}
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert all(equal(weights(stage1, "lm_head"), weights(stage2, "lm_head")))
    adapter = load_file(stage2 / "adapter" / "adapter_model.safetensors")
    assert all(("lora_" in name and "language_model" in name) or ".projector." in name for name in adapter)


def test_adapter_is_what_stage2_learned(scenes):
    _, out, _ = scenes
    stage1, stage2 = out / "models" / "pargo" / "stage1", out / "models" / "pargo" / "stage2"
    settings = json.loads((stage2 / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(stage1)
    model = AutoModelForImageTextToText.from_pretrained(stage1)
    merged = PeftModel.from_pretrained(model, str(stage2 / "adapter")).merge_and_unload().state_dict()
    expected = AutoModelForImageTextToText.from_pretrained(stage2).state_dict()
    assert set(merged) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor, rtol=0, atol=1e-6)


def test_published_models_generate(scenes):
    _, out, _ = scenes
    folder = out / "models" / "qformer" / "stage2"
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    corpus = SceneCorpus(SCALES["tiny"].scenes, 2, "test")
    text = corpus.said(0)[0].text
    question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    text = processor.apply_chat_template(question, add_generation_prompt=True)
    inputs = processor(images=[corpus.picture(0)], text=[text], return_tensors="pt", add_special_tokens=False)
    said = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert inputs["input_ids"].shape[1] < said.shape[1] <= inputs["input_ids"].shape[1] + 2


def test_goes_on_after_kill(scenes, tmp_path):
    expected, _, _ = scenes
    out, cache = tmp_path / "out", tmp_path / "cache"
    command = [sys.executable, "-m", "pargo_mllm", "demo", "--scale", "tiny", "--device", "cpu", "--out", out, "--cache", cache]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(cache.glob("stage0-*/manifest.json")):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "no phase was finished"
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (out / "results.json").exists()
    kept = {manifest: manifest.stat().st_mtime_ns for manifest in cache.glob("*/manifest.json")}
    # the same command's steps, without drawing the pictures once more
    options = DemoOptions(out=out, cache=cache, device="cpu", scale="tiny")
    again = prepare(options)
    train(again)
    results = collect(again)
    for manifest, written in kept.items():
        assert manifest.stat().st_mtime_ns == written
    # what was killed and resumed ends where the uninterrupted run did
    assert results["projectors"][0] == expected["projectors"][0]


def test_photographs(tmp_path, capsys):
    folder = write_photographs(tmp_path / "photographs", count=11)
    assert demo("--data", folder, "--out", tmp_path / "out", "--cache", tmp_path / "cache") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["data"]["name"] == "photographs of photographs"
    assert results["data"]["skipped"] >= 1
    assert "3.jpg cannot be read" in "".join(capsys.readouterr())
    assert results["attention"]
    assert any("held-out photographs measure little" in line for line in results["limits"])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root: None, "is no COCO-style folder"),
        (lambda root: write_photographs(root, count=4), "at least 5 are needed"),
        (lambda root: write_photographs(root, instances=False), "has no instances.json"),
        (lambda root: (write_photographs(root) / "captions.json").write_text("{"), "cannot be read as JSON"),
    ],
    ids=["missing", "few", "unlabelled", "damaged"],
)
def test_unusable_folders(tmp_path, capsys, spoil, says):
    spoil(tmp_path / "photographs")
    status = demo("--data", tmp_path / "photographs", "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    said = capsys.readouterr().err
    assert status == 2
    assert says in said
    assert said.count("\n") == 1
    assert not list((tmp_path / "cache").iterdir() if (tmp_path / "cache").exists() else [])


def test_unusable_output(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert demo("--out", tmp_path / "file", "--cache", tmp_path / "cache") == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: asking for it is no error")
def test_no_gpu(tmp_path, capsys):
    assert main(["demo", "--scale", "tiny", "--device", "cuda", "--out", str(tmp_path)]) == 2
    assert "--device cpu" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["demo", "--seed", "-1"], ["demo", "--seed", "x"], []])
def test_refused_arguments(arguments):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2


@pytest.mark.parametrize("arguments", [["--compare", "mlp", "pargo"], ["--scale", "huge"]])
def test_what_there_is_not(arguments, tmp_path, capsys):
    assert main(["demo", *arguments, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"{arguments[-1]} is unknown; it must be one of" in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_version(capsys):
    with pytest.raises(SystemExit) as error:
        main(["--version"])
    assert error.value.code == 0
    assert capsys.readouterr().out.startswith("pargo ")
