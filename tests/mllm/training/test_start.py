"""What a run starts from: stage 0 or a folder, with the projector that is asked for."""

import pytest
import torch
from transformers import AutoConfig, AutoProcessor

from pargo_mllm.configuration import PROJECTORS
from pargo_mllm.data.scenes.corpus import Scenes
from pargo_mllm.training.recipes import load_recipe
from tests.mllm.made.training_runs import cache_in, train, weights

SCENES = ["--data", "scenes:train=20,held_out=6", "--steps", "2", "--batch-size", "4", "--bf16", "false", "--report-to", "none"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with cache_in(tmp_path_factory.mktemp("cache")):
        yield


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


@pytest.mark.parametrize(
    "text", ["scenes:seed=1,train=9", "{path: scenes, seed: 1, train: 9}", "[{path: 'scenes:seed=1,train=9'}]"]
)
def test_scenes_are_named_in_a_line_or_by_keys(text):
    (part,) = load_recipe("mini-stage1", {"data": text}).data
    assert (part.source, part.weight) == (Scenes(seed=1, train=9), None)
    assert load_recipe("mini-stage1", {"data": text}).identity()["data"] == [["scenes:seed=1,train=9", None]]
