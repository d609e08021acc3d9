"""What a run needs, against numbers put down by hand."""

import pytest
from transformers import BloomConfig, Gemma3TextConfig, GPT2Config, LlamaConfig, OPTConfig, Qwen2Config

from pargo_mllm.language.internlm2 import InternLM2Config
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.training.needs import (
    check_lengths,
    check_projector_options,
    max_positions,
    memory_problem,
    workers_problem,
)
from pargo_mllm.training.recipes import RecipeError, load_recipe
from pargo_mllm.training.run import run_recipe
from pargo_mllm.training.start import FolderStart

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (LlamaConfig(max_position_embeddings=4096), 4096),
        # as Vicuna-16k: four times what the layers were made for
        (LlamaConfig(max_position_embeddings=4096, rope_scaling={"type": "linear", "factor": 4.0}), 16384),
        (InternLM2Config(max_position_embeddings=32768, rope_scaling={"type": "dynamic", "factor": 2.0}), 65536),
        # as Llama 3.1, which counts its scaling in already, and Qwen 2.5, which does so in one of two ways
        (
            LlamaConfig(max_position_embeddings=131072, rope_scaling={**LLAMA3, "original_max_position_embeddings": 8192}),
            131072,
        ),
        (
            Qwen2Config(
                max_position_embeddings=32768,
                rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            ),
            131072,
        ),
        # a layer kind without scaling ends where it ends
        (Gemma3TextConfig(max_position_embeddings=8192, rope_scaling={"rope_type": "linear", "factor": 8.0}), 8192),
        (GPT2Config(n_positions=1024), 1024),
        (OPTConfig(max_position_embeddings=2048), 2048),
        # ALiBi has no end
        (BloomConfig(), None),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int | None) else str(value),
)
def test_positions(config, positions):
    assert max_positions(config) == positions


@pytest.mark.parametrize(
    ("projector", "tiles", "tokens"), [("pargo", 1, 10), ("pargo", 5, 10), ("c_abstractor", 1, 9), ("c_abstractor", 5, 45)]
)
def test_an_example_has_room_for_the_largest_picture_and_one_token(make_config, projector, tiles, tokens):
    counts = {"num_partial_tokens": 9, "num_global_tokens": 0} if projector == "c_abstractor" else {}
    config = make_config(projector_type=projector, **counts)
    check_lengths(tokens + 1, config, tiles)
    with pytest.raises(RecipeError, match=rf"max_length={tokens} leaves no room .* takes {tokens} .* max_length={tokens + 1},"):
        check_lengths(tokens, config, tiles)


def test_the_last_position_is_used(make_config):
    config = make_config()
    end = config.text_config.max_position_embeddings
    check_lengths(end, config, 1)
    with pytest.raises(RecipeError, match=rf"max_length={end + 1} exceeds the {end} positions"):
        check_lengths(end + 1, config, 1)


@pytest.mark.parametrize(("options", "tiles"), [({}, 1), ({"max_tiles": 4}, 4), ({"max_tiles": 4, "overview_tile": True}, 5)])
def test_tiles_of_a_folder(processor, tmp_path, options, tiles):
    ParGoProcessor(processor.image_processor, processor.tokenizer, num_image_tokens=10, **options).save_pretrained(tmp_path)
    assert FolderStart(tmp_path).tiles() == tiles


@pytest.mark.parametrize("text", ["{", "[]", '{"max_tiles": "many"}', '{"max_tiles": null}'])
def test_a_folder_whose_processor_cannot_be_read(tmp_path, text):
    (tmp_path / "processor_config.json").write_text(text)
    with pytest.raises(RecipeError, match=r"processor_config\.json is no configuration of a processor"):
        FolderStart(tmp_path).tiles()


def test_more_readers_than_cores_can_serve(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    recipe = {workers: load_recipe("mini-stage1", {"workers": str(workers)}) for workers in (4, 5, 8, 9)}
    assert workers_problem(recipe[8]) is None
    assert "workers=9 are too many for 2 cores; give at most --workers 8" in workers_problem(recipe[9])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert workers_problem(recipe[4]) is None
    assert "workers=5 for each of 2 processes are too many for 2 cores; give at most --workers 4" in workers_problem(recipe[5])


def test_a_plan_larger_than_the_machine_says_so_and_refuses_nothing():
    # GiB of memory, as the kernel tells it
    with open("/proc/meminfo") as file:
        there = int(file.readline().split()[1]) / 2**20
    assert memory_problem(int(0.9 * there * 2**30), "cpu") is None
    said = memory_problem(int(1.5 * there * 2**30), "cpu")
    assert f"takes about {1.5 * there:.1f} GiB" in said
    lines: list[str] = []
    huge = {"engine": "ddp", "batch_size": "65536", "micro_batch_size": "65536"}
    run_recipe(load_recipe("vicuna-7b-stage1", huge), dry_run=True, say=lines.append, device="cpu")
    # on one GPU, where this machine takes part; not in the plan for 32
    assert len([line for line in lines if line.startswith("to train here: the plan takes")]) == 1


@pytest.mark.parametrize("options", [{}, {"num_partial_tokens": 4}, {"projector_type": "pargo", "attention_dropout": 0.0}])
def test_options_that_are_read(options):
    check_projector_options(options, "pargo")
