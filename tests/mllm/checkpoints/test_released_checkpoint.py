"""The released projector, run with random weights by its own code, is the oracle."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pargo_mllm.checkpoints import convert_released_projector
from pargo_mllm.projectors.attention import Cascaded
from tests.mllm.made.golden import read_golden

# the stored weights are small: a wrong window moves the result by a few 1e-4 only
TOLERANCE = 1e-5


SIZES = {"num_partial_tokens": 36, "num_attention_heads": 4}
INTERPRETED = """
import sys
from pathlib import Path
import torch
from pargo_mllm.checkpoints import convert_released_projector
from tests.mllm.made.golden import read_golden
torch.set_num_threads(1)
golden = read_golden(Path(sys.argv[1]), "pargo_release_small.safetensors")
projector = convert_released_projector(golden.checkpoint, num_partial_tokens=36, num_attention_heads=4)
projector.config.kernel_impl = "triton"
with torch.no_grad():
    print((projector(golden.io["visual_features"]) - golden.io["llm_inputs"]).abs().max().item())
"""


@pytest.fixture(scope="module")
def release(shared):
    golden = read_golden(shared, "pargo_release_small.safetensors")
    return golden.checkpoint, golden.io, SIZES


@torch.no_grad()
@pytest.mark.parametrize("impl", ["torch", "reference"])
def test_every_implementation_of_the_ops_gives_what_the_release_gives(release, impl):
    checkpoint, expected, sizes = release
    projector = convert_released_projector(checkpoint, **sizes)
    projector.config.kernel_impl = impl
    tokens = projector(expected["visual_features"])
    assert tokens.shape == (2, 40, 32)
    assert (tokens - expected["llm_inputs"]).abs().max() < TOLERANCE


def test_interpreted_triton_kernels_give_what_the_release_gives(shared):
    # whether triton interprets is fixed when it is imported
    result = subprocess.run(
        [sys.executable, "-c", INTERPRETED, str(shared)],
        cwd=Path(__file__).resolve().parents[3],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < TOLERANCE


@pytest.mark.parametrize("how", ["pargo", "sdpa", "eager"])
def test_gives_what_the_release_gives(release, how):
    checkpoint, expected, sizes = release
    projector = convert_released_projector(checkpoint, **sizes)
    projector.set_attn_implementation(how)
    with torch.no_grad():
        hidden = projector.last_hidden_state(expected["visual_features"])
        tokens = projector(expected["visual_features"])
    assert (hidden - expected["last_hidden_state"]).abs().max() < TOLERANCE
    assert (tokens - expected["llm_inputs"]).abs().max() < TOLERANCE


def test_the_tolerance_tells_the_release_from_the_cascade_of_the_paper(release):
    checkpoint, expected, sizes = release
    projector = convert_released_projector(checkpoint, **sizes)
    for layer, window in zip(projector.layers, (12, 24, 36), strict=True):
        layer.self_attention.layout = Cascaded(36, window, "clamp")
    with torch.no_grad():
        hidden = projector.last_hidden_state(expected["visual_features"])
    assert (hidden - expected["last_hidden_state"]).abs().max() > 20 * TOLERANCE


def test_survives_saving_and_loading(release, tmp_path):
    checkpoint, expected, sizes = release
    projector = convert_released_projector(checkpoint, **sizes)
    projector.save_pretrained(tmp_path)
    loaded = type(projector).from_pretrained(tmp_path)
    assert torch.equal(loaded(expected["visual_features"]), projector(expected["visual_features"]))


@pytest.mark.parametrize("container", ["state_dict", "model"])
def test_containers_prefixes_and_other_parts_of_the_model_are_understood(release, container):
    checkpoint, expected, sizes = release
    wrapped = {f"module.{name}": tensor for name, tensor in checkpoint.items()} | {"module.ln_vision.weight": torch.ones(48)}
    projector = convert_released_projector({container: wrapped, "epoch": 3}, **sizes)
    assert (projector(expected["visual_features"]) - expected["llm_inputs"]).abs().max() < TOLERANCE


def test_without_the_linear_map_the_last_hidden_state_comes_out(release):
    checkpoint, expected, sizes = release
    without = {name: tensor for name, tensor in checkpoint.items() if not name.startswith("llm_proj")}
    projector = convert_released_projector(without, **sizes)
    assert (projector(expected["visual_features"]) - expected["last_hidden_state"]).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    "name",
    [
        "query_tokens",
        "llm_proj.bias",
        "ParGo.bert.embeddings.position_embeddings.weight",
        "ParGo.bert.encoder.layer.1.attention.self.query.bias",
        "ParGo.bert.encoder.layer.0.crossattention.self.key.weight",
    ],
)
def test_a_missing_tensor_is_named(release, name):
    checkpoint, _, sizes = release
    with pytest.raises(ValueError, match=re.escape(name)):
        convert_released_projector({key: tensor for key, tensor in checkpoint.items() if key != name}, **sizes)


def test_an_unknown_tensor_is_refused_by_name(release):
    checkpoint, _, sizes = release
    strange = {**checkpoint, "ParGo.bert.pooler.dense.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"ParGo.bert.pooler.dense.weight"):
        convert_released_projector(strange, **sizes)


@pytest.mark.parametrize("count", [-1, 41])
def test_impossible_numbers_of_partial_tokens_are_refused(release, count):
    with pytest.raises(ValueError, match=r"num_(partial|global)_tokens=-1"):
        convert_released_projector(release[0], num_partial_tokens=count, num_attention_heads=4)


def test_another_files_tensors_are_refused():
    with pytest.raises(ValueError, match=r"'query_tokens'; it is not a released ParGo projector"):
        convert_released_projector({"weight": torch.zeros(2)}, num_partial_tokens=1, num_attention_heads=1)
