"""The paper's size on the meta device, counted by hand, and what training takes: by hand, and as a process measures it."""

import os
import subprocess
import sys

import pytest
import torch
from transformers import LlamaConfig, SiglipVisionConfig

from pargo_mllm import ParGoConfig, ParGoForConditionalGeneration
from pargo_mllm.language.lora import LoraSettings
from pargo_mllm.training import memory
from pargo_mllm.training.memory import GIB, estimate_memory, meta_model
from pargo_mllm.training.stages import prepare
from pargo_mllm.training.trainer.parts import count_parameters
from tests.mllm.made.mixtures import make_mixture

# CLIP-L/14-336: patches, class token, positions, two norms; 24 layers of attention, feed-forward and two norms
VISION = 3 * 14 * 14 * 1024 + 1024 + 577 * 1024 + 2 * 2048
VISION += 24 * (4 * (1024 * 1024 + 1024) + (1024 * 4096 + 4096) + (4096 * 1024 + 1024) + 2 * 2048)
# ParGo: two attentions and a feed-forward a layer, a norm after each; query tokens, their norm, the map to 4096
ATTENTION = 4 * (1024 * 1024 + 1024)
PROJECTOR = 6 * (2 * ATTENTION + (1024 * 4096 + 4096) + (4096 * 1024 + 1024) + 3 * 2048)
PROJECTOR += 304 * 1024 + 2048 + (1024 * 4096 + 4096)
# Vicuna-7B, known to have 6,738,415,616 with 32,000 tokens; the image token adds a row to embeddings and head
HEAD = 32001 * 4096
LANGUAGE = 6_738_415_616 + 2 * 4096 - HEAD
# rank 256 on 4096 -> 4096 four times, 4096 <-> 11008 three times, in 32 layers
LORA = 32 * 256 * (4 * (4096 + 4096) + 3 * (4096 + 11008))


@pytest.fixture(scope="module")
def model():
    return prepare(meta_model(ParGoConfig(dtype="bfloat16")), 1)


@pytest.fixture(scope="module")
def estimate(model):
    return estimate_memory(model, 1, micro_batch=8, sequence_length=512)


def by_part(estimate):
    return {part.part: part for part in estimate.parts}


def test_parameters_by_part(model):
    counts = {part: total for part, (total, _) in count_parameters(model).items()}
    assert counts == {"vision_tower": VISION, "projector": PROJECTOR, "language_model": LANGUAGE, "lm_head": HEAD}
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("engine", "gpus", "weights", "gradients", "optimizer"),
    [
        # bytes a trained parameter: an fp32 weight, its gradient (and DDP's copy of it to send), AdamW's moments
        ("ddp", 1, 4, 4, 8),
        ("ddp", 32, 4, 8, 8),
        # and ZeRO's copy of the weight
        ("zero2", 1, 4, 4, 12),
        ("zero2", 32, 4, 4 / 32, 12 / 32),
        ("fsdp2", 1, 4, 4, 8),
        ("fsdp2", 32, 4 / 32, 4 / 32, 8 / 32),
    ],
)
def test_stage_1_by_hand(model, estimate, engine, gpus, weights, gradients, optimizer):
    parts = by_part(estimate_memory(model, gpus, micro_batch=8, sequence_length=512, engine=engine, like=estimate))
    divided = gpus if engine == "fsdp2" else 1
    # frozen in bf16; the encoder is whole everywhere
    assert parts["vision_tower"].weights == 2 * VISION
    assert parts["language_model"].weights == 2 * LANGUAGE // divided
    assert parts["lm_head"].weights == 2 * HEAD // divided
    assert PROJECTOR % 32 == 0
    found = parts["projector"]
    assert (found.weights, found.gradients, found.optimizer) == tuple(
        round(PROJECTOR * bytes_each) for bytes_each in (weights, gradients, optimizer)
    )
    assert all(part.gradients == part.optimizer == 0 for name, part in parts.items() if name != "projector")
    if divided > 1:
        layer = (LANGUAGE - HEAD - 4096) // 32
        # embeddings, head, the last norm; the projector's queries and their norm, its map to the language model
        outside = 2 * (2 * HEAD + 4096) + 4 * (304 * 1024 + 2048 + 1024 * 4096 + 4096)
        assert parts["gathered"].weights == 2 * 2 * layer + outside


def test_activations_by_hand(model, estimate):
    parts = by_part(estimate)
    # features of 576 patches in bf16
    assert parts["vision_tower"].activations == 8 * 576 * 1024 * 2
    # 32 layers keep their input in bf16; what one computes again comes on top, and is no more than all its numbers in fp32
    kept = 2 * 8 * 512 * 32 * 4096
    assert kept < parts["language_model"].activations < kept + 4 * 8 * 512 * (8 * 4096 + 3 * 11008)
    one = ParGoConfig(dtype="bfloat16")
    one.text_config.num_hidden_layers = 31
    fewer = estimate_memory(prepare(meta_model(one), 1), 1, micro_batch=8, sequence_length=512)
    assert parts["language_model"].activations - by_part(fewer)["language_model"].activations == 2 * 8 * 512 * 4096
    # all tokens but the 304 of each picture: logits, their logarithms and two gradients, all in fp32, are not there at once
    logits = 8 * (512 - 304) * 32001
    assert 8 * logits < parts["lm_head"].activations < 16 * logits
    assert estimate.total == sum(part.total for part in estimate.parts) - estimate.in_turn
    # 105 million gradients come while activations go
    assert estimate.in_turn <= 4 * PROJECTOR


def test_the_head_runs_on_labelled_rows_and_not_on_all_at_once(make_config):
    config = make_config()
    config.text_config.vocab_size = 200_000
    trained = prepare(meta_model(config), 1)
    found = {
        labels: by_part(estimate_memory(trained, 1, 4, 512, labels=labels))["lm_head"].activations
        for labels in (10, 20, 30, 600, 1200)
    }
    a_row = (found[20] - found[10]) // 10
    assert 8 * 200_000 <= a_row <= 16 * 200_000
    assert found[30] - found[20] == 10 * a_row
    # 2**26 logits are 335 rows of this vocabulary
    assert found[600] < found[10] + 340 * a_row
    assert found[1200] < found[10] + 340 * a_row


def test_stage_2_with_lora():
    adapted = prepare(meta_model(ParGoConfig(dtype="bfloat16")), 2, LoraSettings())
    one = estimate_memory(adapted, 1, engine="zero2")
    many = estimate_memory(adapted, 32, engine="zero2", like=one)
    language = by_part(one)["language_model"]
    assert language.trained == LORA
    assert language.parameters == LANGUAGE + LORA
    assert language.weights == 2 * LANGUAGE + 4 * LORA
    # PEFT keeps the projector as it was beside the trained one
    assert by_part(one)["projector"].weights == 2 * 4 * PROJECTOR
    # optimizer states and gradients are what more GPUs divide
    assert one.total - many.total == pytest.approx(16 * (LORA + PROJECTOR) * 31 / 32, abs=100)
    assert 24 * GIB < one.total < 30 * GIB
    sharded = estimate_memory(adapted, 32, engine="fsdp2", like=one)
    assert sharded.total < many.total / 2


def test_a_whole_language_model_is_kept_in_fp32(make_config):
    config = make_config()
    config.dtype = torch.bfloat16
    parts = by_part(estimate_memory(prepare(meta_model(config), 2), 1, sequence_length=40))
    for name in ("projector", "language_model", "lm_head"):
        part = parts[name]
        assert (part.weights, part.gradients, part.optimizer) == (4 * part.parameters, 4 * part.parameters, 8 * part.parameters)
    assert parts["vision_tower"].weights == 2 * parts["vision_tower"].parameters


@pytest.mark.parametrize(
    "dtypes", [None, {"vision_config": "float32", "projector_config": "float32", "text_config": "float16"}]
)
def test_weights_are_counted_in_the_dtypes_that_they_are_loaded_in(make_config, tmp_path, dtypes):
    config = make_config()
    model = ParGoForConditionalGeneration(config)
    if dtypes:
        model.model.language_model.half()
        model.lm_head.half()
    model.save_pretrained(tmp_path)
    planned = prepare(meta_model(ParGoConfig.from_pretrained(tmp_path)), 1)
    loaded = prepare(ParGoForConditionalGeneration.from_pretrained(tmp_path), 1)
    assert ParGoConfig.from_pretrained(tmp_path).part_dtypes == dtypes
    sizes = {name: (weight.dtype, weight.shape) for name, weight in loaded.named_parameters()}
    assert {name: (weight.dtype, weight.shape) for name, weight in planned.named_parameters()} == sizes


def test_attention_that_keeps_its_scores_is_counted(make_config):
    found = {}
    for attention in ("sdpa", "eager"):
        planned = meta_model(make_config())
        planned.set_attn_implementation({"": attention, "text_config": attention, "projector_config": "pargo"})
        parts = by_part(estimate_memory(prepare(planned, 1), 1, 1, 1000, gradient_checkpointing=False))
        found[attention] = parts["language_model"].activations
    # two layers of four heads, a number of 1000 x 1000 in bf16 at least
    assert found["eager"] - found["sdpa"] >= 2 * 2 * 4 * 1000 * 1000


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_experts_are_followed_too(kind):
    adapted = prepare(make_mixture(kind)[0], 2, LoraSettings(2, 4, 0.0))
    estimate = estimate_memory(adapted, 1, micro_batch=2, sequence_length=40)
    assert not estimate.bound
    assert "rough bound" not in estimate.describe()


def test_a_language_model_that_cannot_be_followed_is_bounded_and_says_so(model, monkeypatch):
    def computes_with_numbers(*_, **__):
        raise RuntimeError("data-dependent")

    monkeypatch.setattr(memory, "step_memory", computes_with_numbers)
    estimate = estimate_memory(model, 1, sequence_length=400, gradient_checkpointing=False)
    assert by_part(estimate)["language_model"].activations == 2 * 400 * 32 * (8 * 4096 + 3 * 11008)
    assert "activations are a rough bound" in estimate.describe()


def test_table_and_errors(model, estimate):
    text = estimate_memory(model, 32, like=estimate).describe()
    assert "32 in all" in text
    assert [line.split()[0] for line in text.splitlines()[1:]] == [
        "vision_tower",
        "projector",
        "language_model",
        "lm_head",
        "all,",
    ]
    with pytest.raises(ValueError, match=r"gpus=0 must be at least 1"):
        estimate_memory(model, 0)
    with pytest.raises(ValueError, match=r"engine='zero3' is unknown; it must be one of ddp, zero2, fsdp2"):
        estimate_memory(model, 1, engine="zero3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of 235 MB, the language model in bf16, and the projector in fp32."""
    folder = tmp_path_factory.mktemp("measured")
    torch.manual_seed(0)
    config = ParGoConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=112,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=LlamaConfig(
            vocab_size=16001,
            hidden_size=1024,
            intermediate_size=2816,
            num_hidden_layers=7,
            num_attention_heads=16,
            num_key_value_heads=16,
            pad_token_id=0,
        ),
        projector_config={"num_hidden_layers": 2, "num_attention_heads": 4, "num_partial_tokens": 28, "num_global_tokens": 4},
        image_token_id=16000,
    )
    model = ParGoForConditionalGeneration(config)
    model.model.vision_tower.bfloat16()
    model.model.language_model.bfloat16()
    model.lm_head.bfloat16()
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("trains", "bf16", "checkpointing", "accumulation"),
    [
        ("projector", True, True, 1),
        pytest.param("projector", False, False, 2, marks=pytest.mark.long),
        pytest.param("lora", True, True, 2, marks=pytest.mark.long),
        pytest.param("lora", False, False, 1, marks=pytest.mark.long),
        pytest.param("all", True, True, 1, marks=pytest.mark.long),
        pytest.param("all", True, False, 2, marks=pytest.mark.long),
    ],
)
def test_the_estimate_is_what_a_process_takes(folder, tmp_path, trains, bf16, checkpointing, accumulation):
    """Resident memory, from before the model is opened to the most of two steps."""
    # what is freed goes back at once
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}
    arguments = [str(folder), str(tmp_path), trains, *(str(int(value)) for value in (bf16, checkpointing, accumulation))]
    command = [sys.executable, "-m", "tests.mllm.made.measured_training", *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    estimated, measured, *parts = map(int, done.stdout.splitlines()[-1].split())
    assert measured > 235e6
    assert estimated == pytest.approx(measured, rel=0.1)
    # weights, gradients, moments: estimated and held
    assert parts[:3] == parts[3:]
