"""Every set that can be prepared, put together in one file of parts that a stage trains on."""

import json
import math
import os

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pargo_cli.data_sets import DATA_SETS
from pargo_mllm.cli import main
from pargo_mllm.data.preparation.data_set import Options
from pargo_mllm.data.preparation.run import Form, prepare
from pargo_mllm.data.preparation.sets import find
from pargo_mllm.data.scenes.corpus import Scenes
from pargo_mllm.jobs import engine_of
from pargo_mllm.training.inputs import open_data
from pargo_mllm.training.recipes import RecipeError, load_recipe
from tests.mllm.made.official import write
from tests.mllm.made.official.serving import anywhere

STAGE2 = "extends: mini-stage2\nattention: sdpa\nviews: 0\nwarmup: 0.0\ncache_features: false\n"


def run(*words):
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Every set's official files in small, prepared: one in shards, all others as lists."""
    folder = tmp_path_factory.mktemp("data")
    for name in DATA_SETS:
        (folder / "official" / name).mkdir(parents=True)
        write(name, folder / "official" / name)
        form = Form(per_shard=100 if name == "refcoco" else None, fetch=True)
        prepare(find(name), folder / "official" / name, folder / name, Options(), form, engine_of("local", 1), anywhere)
    assert run("data", "mixture", *(folder / name for name in DATA_SETS), "--out", folder / "mixture.yaml") == 0
    return folder


def test_a_stage_trains_on_all_of_them(prepared, make_model, processor, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "stage2.yaml").write_text(STAGE2)
    words = ["--model", tmp_path / "model", "--output", tmp_path / "out", "--steps", 1, "--batch-size", 48]
    more = ["--bf16", "false", "--report-to", "none", "--lora-rank", 4]
    assert run("train", tmp_path / "stage2.yaml", "--data", prepared / "mixture.yaml", *words, *more) == 0
    log = json.loads((tmp_path / "out" / "training_log.json").read_text())
    assert [part["source"] for part in log[-1]["data"]] == [str(prepared / name) for name in DATA_SETS]
    for name, part in zip(DATA_SETS, log[-1]["data"], strict=True):
        about = json.loads((prepared / name / "about.json").read_text())
        kind = "samples" if name == "refcoco" else "records"
        # what was prepared can be used, all of it
        assert part["entries"][kind] == {"entries": about["records"], "used": about["records"], "held_out": 0, "skipped": {}}
    assert not log[-1].get("skipped")
    assert math.isfinite(log[0]["loss"])
    before, after = (load_file(tmp_path / where / "model.safetensors") for where in ("model", "out"))
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_parts_have_the_weights_of_their_sets(prepared):
    parts = load_recipe("mini-stage2", {"data": str(prepared / "mixture.yaml")}).data
    assert [part.source.resolve() for part in parts] == [(prepared / name).resolve() for name in DATA_SETS]
    assert [part.weight for part in parts] == [find(name).weight for name in DATA_SETS]


def test_a_mixture_moves_with_its_folder(prepared, tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(prepared)
    monkeypatch.chdir(tmp_path)
    assert run("data", "mixture", "link/vsr", "link/aokvqa", "--out", "deep/er/mixture.yaml", "--weights", "vsr=3") == 0
    text = (tmp_path / "deep" / "er" / "mixture.yaml").read_text()
    assert yaml.safe_load(text) == [{"path": "../../link/vsr", "weight": 3.0}, {"path": "../../link/aokvqa", "weight": 0.103}]
    (tmp_path / "deep").rename(tmp_path / "other")
    recipe = load_recipe("mini-stage2", {"data": "other/er/mixture.yaml"})
    assert len(open_data(recipe)) == 3 + 5
    # what is trained on decides what a run is, not the name of a file
    by_hand = load_recipe("mini-stage2", {"data": "[{path: link/vsr, weight: 3}, {path: link/aokvqa, weight: 0.103}]"})
    assert recipe.identity() == by_hand.identity()
    other = load_recipe("mini-stage2", {"data": "[{path: link/vsr, weight: 2}, {path: link/aokvqa, weight: 0.103}]"})
    assert recipe.identity() != other.identity()


def test_a_file_of_parts_holds_what_the_key_takes(tmp_path):
    file = tmp_path / "parts.YML"
    file.write_text("\ufeff- list.json\n- {path: scenes, seed: 1, train: 50}\n- {path: /far/list.json, image_root: pictures}\n")
    parts = load_recipe("mini-stage2", {"data": str(file)}).data
    assert [part.source for part in parts] == [
        tmp_path / "list.json",
        Scenes.of({"seed": 1, "train": 50}),
        type(tmp_path)("/far/list.json"),
    ]
    assert [part.image_root for part in parts] == [None, None, tmp_path / "pictures"]
    assert all(part.weight is None for part in parts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold a list of parts"),
        (b"path: a", "must hold a list of parts"),
        (b"- {path: a, weight: 1}\n- b", "some parts have a weight and some have none"),
        (b"- {path: a, weight: -1}", "weight=-1.0 of a must be positive"),
        (b"- {path: a, weight: .nan}", "weight=nan of a must be positive"),
        (b"- {path: a, wieght: 1}", "'wieght' is no key of a"),
        (b"- {path: other.yaml}", "stands alone"),
        (b"- [a]", "must be a path"),
        (b"[]", "must name at least one path"),
        (b"- \xff", "cannot be read as YAML"),
        (b"- &a [*a]", "cannot be read as YAML"),
        (b"- " + b"[" * 1200, "cannot be read as YAML"),
        (b"- !!python/object/apply:os.system [ls]", "cannot be read as YAML"),
        (b"#" * 2**17 + b"#", "larger than"),
    ],
)
def test_a_file_that_is_no_mixture_is_named(content, message, tmp_path):
    file = tmp_path / "parts.yaml"
    file.write_bytes(content)
    with pytest.raises(RecipeError) as raised:
        load_recipe("mini-stage2", {"data": str(file)})
    assert message in str(raised.value)
    assert str(file) in str(raised.value) or "stands alone" in message


def test_a_mixture_stands_alone(tmp_path):
    with pytest.raises(RecipeError, match="stands alone"):
        load_recipe("mini-stage2", {"data": f"[{tmp_path}/mixture.yaml, scenes]"})
    with pytest.raises(RecipeError, match=r"is no file; it would hold the parts"):
        load_recipe("mini-stage2", {"data": f"{tmp_path}/mixture.yaml"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vsr", "vsr"], "given twice"),
        (["vsr", "../data/vsr"], "given twice"),
        (["official"], "has no about.json"),
        (["nowhere"], "is no folder"),
        (["vsr", "--weights", "gqa=1"], "is none of vsr"),
        (["vsr", "--weights", "vsr=0"], "must be a number above 0"),
        (["vsr", "--weights", "vsr=nan"], "must be a number above 0"),
        (["vsr", "--weights", "vsr"], "a weight without a name"),
        (["vsr", "--out", "mixture.yaml"], "is there already"),
        (["vsr", "--out", "mixture.json"], "must end with .yaml or .yml"),
        (["vsr", "--out", "vsr/data.json/mixture.yaml"], "cannot be written"),
        (["half"], "cannot be read"),
        (["list"], "names no set"),
        (["empty"], "holds no record"),
        (["pipe"], "no regular file"),
    ],
)
def test_what_cannot_be_mixed_is_refused_by_name(words, message, prepared, monkeypatch, capsys):
    monkeypatch.chdir(prepared)
    for name, text in {"half": "{", "list": "[]", "empty": '{"set": "vsr", "records": 0}'}.items():
        (prepared / name).mkdir(exist_ok=True)
        (prepared / name / "about.json").write_text(text)
    (prepared / "pipe").mkdir(exist_ok=True)
    if not (prepared / "pipe" / "about.json").exists():
        os.mkfifo(prepared / "pipe" / "about.json")
    words = [os.path.relpath(prepared / "vsr") if word == "../data/vsr" else word for word in words]
    out = [] if "--out" in words else ["--out", "fresh.yaml"]
    assert run("data", "mixture", *words, *out) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (prepared / "fresh.yaml").exists()


def test_two_folders_of_one_set_are_weighed_by_folder(prepared, monkeypatch, capsys):
    monkeypatch.chdir(prepared)
    assert run("data", "prepare", "vsr", "--src", "official/vsr", "--out", "again", "--json") == 0
    both = [prepared / "vsr", prepared / "again"]
    assert run("data", "mixture", *both, "--out", "two.yaml", "--weights", f"{both[1]}=3") == 0
    assert [part["weight"] for part in yaml.safe_load((prepared / "two.yaml").read_text())] == [0.026, 3.0]
    assert run("data", "mixture", *both, "--out", "three.yaml", "--weights", "vsr=1") == 2
    assert "several folders" in capsys.readouterr().err
