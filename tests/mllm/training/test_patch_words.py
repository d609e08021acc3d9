"""pargo train with the patch loss: what is logged, what goes on, what is refused; and without it, what it was before."""

import json
import shutil
from dataclasses import replace

import pytest

from pargo_mllm.alignment.words import word_ids
from pargo_mllm.data.feeding.collation import RowCollator
from pargo_mllm.data.feeding.encoding import ExampleEncoder
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.training.inputs import OpenedData, training_inputs
from pargo_mllm.training.patch_words import patch_words
from pargo_mllm.training.recipes import RecipeError, load_recipe
from pargo_mllm.training.run_folder import check_same
from tests.mllm.made.labelled_pictures import labelled_examples
from tests.mllm.made.photographs import write_photographs
from tests.mllm.made.training_runs import cache_in, changed, losses, mini1, train

SIX = ("--steps", "6", "--save-steps", "2")
ON = ("--patch-weight", "3.0", "--patch-ramp", "0.5", "--patch-threshold", "0.2")


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory):
    """A folder with photographs whose boxes have names, and what is trained from captions alone."""
    root = tmp_path_factory.mktemp("patches")
    write_photographs(root / "photographs", count=9)
    with cache_in(root / "cache"):
        assert train(*mini1(root / "photographs", root / "plain", *SIX)) == 0
        yield root


def log_of(folder):
    return json.loads((folder / "training_log.json").read_text())


def test_off_changes_no_bit_and_no_batch(root, processor):
    assert train(*mini1(root / "photographs", root / "off", *SIX, "--patch-weight", "0", *ON[2:])) == 0
    assert changed(root / "plain", root / "off") == set()
    assert log_of(root / "plain") == log_of(root / "off")
    assert {key for entry in log_of(root / "off") for key in entry} == {"step", "loss", "skipped", "data"}
    encoder = ExampleEncoder(processor, 500)
    batch = RowCollator(0, True, 500)([encoder(example) for example in labelled_examples()])
    assert set(batch) == {"input_ids", "labels", "position_ids", "attention_mask", "pixel_values", "contents"}


def test_without_a_weight_a_run_is_what_it_was_before_there_were_these_keys():
    off, on = load_recipe("mini-stage1"), load_recipe("mini-stage1", {"patch_weight": "1"})
    assert not [key for key in off.identity() if key.startswith("patch_")]
    given = {"loss": "cosine", "ramp": "0.5", "tokens": "all", "targets": "hard", "threshold": "0.2", "labels": "regions.jsonl"}
    for key, value in given.items():
        assert load_recipe("mini-stage1", {f"patch_{key}": value, "patch_weight": "0"}).identity() == off.identity()
        other = load_recipe("mini-stage1", {f"patch_{key}": value, "patch_weight": "1"}).identity()
        assert {name for name, one in other.items() if one != on.identity()[name]} == {f"patch_{key}"}


def test_on_it_tells_both_losses(root, capsys):
    arguments = (*SIX, *ON, "--eval-steps", "3", "--cache-features", "true")
    assert train(*mini1(root / "photographs", root / "on", *arguments)) == 0
    said = capsys.readouterr()
    assert "patch loss, weight 3, contrastive among 3 words: of the tokens of a picture, " in said.out + said.err
    assert "step 6: held-out loss" in said.out + said.err
    assert ", patch loss " in said.out + said.err
    moved = changed(root / "plain", root / "on")
    assert moved
    assert all(".projector." in name for name in moved)
    log = log_of(root / "on")
    for entry in log:
        weight = 3.0 * min(1.0, (entry["step"] - 1) / 3)
        assert entry["loss"] == pytest.approx(entry["caption_loss"] + weight * entry["patch_loss"], rel=1e-5)
    assert log[0]["loss"] == losses(root / "plain")[0]
    assert log[-1]["patch_loss"] < log[0]["patch_loss"]


@pytest.mark.long
def test_it_goes_on_where_it_stopped(root, tmp_path, monkeypatch, capsys):
    assert train(*mini1(root / "photographs", tmp_path / "whole", *SIX, *ON, "--cache-features", "true")) == 0

    def stop(*_):
        raise KeyboardInterrupt

    again = mini1(root / "photographs", tmp_path / "again", *SIX, *ON, "--cache-features", "false")
    with monkeypatch.context() as patched:
        patched.setattr("pargo_mllm.training.stages.save", stop)
        assert train(*again) == 130
    (tmp_path / ".again.partial" / "checkpoints" / "checkpoint-6" / "trained.safetensors").write_bytes(b"half")
    for key, value in (("weight", "2"), ("loss", "cosine"), ("loss", "cosine --patch-weight 0")):
        assert train(*again, f"--patch-{key}", *value.split()) == 2
        assert f"was begun with patch_{key}=" in capsys.readouterr().err
    assert train(*again) == 0
    # features from the cache, or computed
    for one, other in zip(log_of(tmp_path / "whole"), log_of(tmp_path / "again"), strict=True):
        assert {name: other[name] for name in ("loss", "caption_loss", "patch_loss")} == pytest.approx(
            {name: one[name] for name in ("loss", "caption_loss", "patch_loss")}, rel=1e-4
        )


def test_data_of_which_nobody_knows_what_is_where_is_named(root, tmp_path, capsys):
    write_photographs(tmp_path / "unknown", count=6, instances=False)
    mixture = f"[{root / 'photographs'}, {tmp_path / 'unknown'}, scenes]"
    assert train("mini-stage1", "--model", root / "plain", "--data", mixture, "--dry-run", *ON) == 2
    said = capsys.readouterr().err
    assert f"nobody says it of those of the first 64 examples in {tmp_path / 'unknown'}. Scenes know it" in said
    assert str(root / "photographs") not in said.splitlines()[-1]


@pytest.mark.long
def test_a_file_says_what_is_where(root, tmp_path, capsys):
    """What instances.json says, by another way; and files that say nothing of the data's pictures, or nothing that is read."""
    boxes = json.loads((root / "photographs" / "instances.json").read_text())
    names = {category["id"]: category["name"] for category in boxes["categories"]}
    lines = []
    for image in boxes["images"]:
        own = [one for one in boxes["annotations"] if one["image_id"] == image["id"]]
        corners = [(x, y, x + width, y + height) for x, y, width, height in (one["bbox"] for one in own)]
        regions = [{"labels": [[names[one["category_id"]]]], "box": box} for one, box in zip(own, corners, strict=True)]
        lines.append({"image": image["file_name"], "size": [image["width"], image["height"]], "regions": regions})
    file = tmp_path / "regions.jsonl"

    def with_file(lines, *more):
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        labels = ("--patch-labels", file, "--steps", "2", "--save-steps", "null")
        return train(*mini1(root / "photographs", tmp_path / "out", *ON, *labels, *more))

    assert with_file([{**line, "image": f"other/{line['image']}"} for line in lines]) == 2
    assert f"{file} says nothing of those of the first 64 examples in {root / 'photographs'}" in capsys.readouterr().err
    unheard = {"labels": [["zebra"]], "box": [0, 0, 120, 90]}
    assert with_file([{**line, "regions": [unheard]} for line in lines]) == 2
    assert "has a label; the tokenizer has no tokens for zebra" in capsys.readouterr().err
    assert with_file(lines, "--data", "scenes") == 2
    assert f"patch_labels={file}: scenes know what is where in them" in capsys.readouterr().err
    shutil.rmtree(tmp_path / ".out.partial")
    assert with_file(lines) == 0
    assert f"{file}: of 9 pictures 9 used" in capsys.readouterr().out
    # data read here, or by a worker
    own = ("--steps", "2", "--save-steps", "null", "--workers", "1")
    assert train(*mini1(root / "photographs", tmp_path / "own", *ON, *own)) == 0
    assert losses(tmp_path / "out") == losses(tmp_path / "own")
    assert changed(tmp_path / "out", tmp_path / "own") == set()


def test_words_that_a_token_chooses_among(make_model, processor, monkeypatch):
    """All that the data knows; too many of them, those of a micro-batch; a single one teaches nothing."""
    recipe, scenes, said = load_recipe("mini-stage1", {"patch_weight": "1"}), open_corpus("scenes:seed=2,train=24", 1), []
    data, more = OpenedData((scenes,), None, ()), (make_model(), processor, 1, said.append)
    words = {word_ids(processor.tokenizer, name) for name in scenes.region_names()} - {()}
    label, patches = patch_words(recipe, data, *more)
    assert len(words) > 1
    assert (set(label.choices), len(label.choices), patches.contrastive) == (words, len(words), True)
    assert f"contrastive among {len(words)} words: " in said[-1]
    assert training_inputs(recipe, data, processor, 1, label=label).collate.words == label.choices
    label, patches = patch_words(replace(recipe, patch_loss="cosine"), data, *more)
    assert (label.choices, patches.contrastive) == ((), False)
    monkeypatch.setattr("pargo_mllm.training.patch_words.MOST_NAMES", 46)
    assert patch_words(recipe, data, *more)[0].choices == ()
    assert said[-1].startswith("the data has 48 names, more than 46: a token chooses among those of its micro-batch")
    monkeypatch.setattr(scenes, "region_names", lambda: ("red", "no word"))
    with pytest.raises(RecipeError, match=r"\(red, no word\) the tokenizer spells a single one; give patch_loss: cosine"):
        patch_words(recipe, data, *more)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"patch_weight": "-1"}, "patch_weight=-1.0 must be a number of at least 0"),
        ({"patch_weight": ".inf"}, "patch_weight=inf must be a number of at least 0"),
        ({"patch_weight": ".nan"}, "patch_weight=nan must be a number of at least 0"),
        ({"patch_ramp": "1.5"}, "patch_ramp=1.5 must lie in"),
        ({"patch_ramp": ".nan"}, "patch_ramp=nan must lie in"),
        ({"patch_threshold": "0"}, "patch_threshold=0.0 must lie in"),
        ({"patch_loss": "both"}, "patch_loss='both' is unknown; it must be one of cosine, contrastive"),
        ({"patch_tokens": "some"}, "patch_tokens='some' is unknown; it must be one of auto, all"),
        ({"patch_targets": "mean"}, "patch_targets='mean' is unknown; it must be one of soft, hard"),
        ({"patch_labels": "''"}, "patch_labels='' must be a path"),
    ],
)
def test_values_that_cannot_train_are_refused(changes, says):
    with pytest.raises(RecipeError, match=says.replace("(", r"\(")):
        load_recipe("mini-stage1", changes)


@pytest.mark.parametrize("key", ["patch_ramp", "patch_targets", "patch_labels"])
def test_keys_of_a_loss_that_is_not_asked_for_are_refused(key):
    changes = {key: {"patch_ramp": "0.5", "patch_targets": "hard", "patch_labels": "regions.jsonl"}[key]}
    with pytest.raises(RecipeError, match=f"{key}={changes[key]} is of the patch loss; give its patch_weight"):
        load_recipe("mini-stage1", changes)
    load_recipe("mini-stage1", {**changes, "patch_weight": "0"})
    load_recipe("mini-stage1", {**changes, "patch_weight": "0.5"})


def test_labels_that_have_changed_are_named_when_a_run_goes_on():
    before = {"content": [{"corpus": "llava", "content": "1", "regions": "a"}], "patch_labels": "/regions.jsonl"}
    after = {**before, "content": [{**before["content"][0], "regions": "b"}]}
    with pytest.raises(RecipeError, match=r"with other data: --patch-labels /regions\.jsonl has changed since; give") as said:
        check_same(before, after, "--output: out was begun")
    assert "{" not in str(said.value)
    with pytest.raises(RecipeError, match="with other data: data has changed since"):
        check_same(before, {**before, "content": []}, "--output: out was begun")


@pytest.mark.parametrize("changes", [{"patch_weight": "0.5"}, {"patch_ramp": "0.1"}, {"patch_labels": "regions.jsonl"}])
def test_stage_2_refuses_it(changes):
    (key,) = changes
    with pytest.raises(RecipeError, match=f"{key}=.* is for stage 1"):
        load_recipe("mini-stage2", {"model": "somewhere", **changes})
