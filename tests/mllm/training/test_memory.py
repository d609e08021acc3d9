"""The paper's size on the meta device, counted by hand, and what training it takes."""

import pytest

from pargo_mllm import ParGoConfig
from pargo_mllm.language.lora import LoraSettings, add_lora
from pargo_mllm.training.memory import GIB, estimate_memory, meta_model
from pargo_mllm.training.trainer.parts import count_parameters, freeze_all_but

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
    model = meta_model(ParGoConfig())
    freeze_all_but(model, "projector")
    return model


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
def test_stage_1_by_hand(model, engine, gpus, weights, gradients, optimizer):
    estimate = estimate_memory(model, gpus, micro_batch=8, sequence_length=512, engine=engine)
    parts = {part.part: part for part in estimate.parts}
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
    # kept inputs of 32 layers and the inside of one; logits twice in fp32 and once in bf16, 2**26 of them at a time
    assert parts["language_model"].activations == 2 * 8 * 512 * (32 * 4096 + 8 * 4096 + 3 * 11008)
    assert 8 * 512 * 32001 > 2**26
    assert parts["lm_head"].activations == 10 * 2**26
    assert parts["projector"].activations == 2 * 8 * 304 * (6 * 1024 + 8 * 1024 + 3 * 4096)
    assert parts["vision_tower"].activations == 2 * 8 * 576 * (8 * 1024 + 3 * 4096)
    if divided > 1:
        layer = (LANGUAGE - HEAD - 4096) // 32
        # embeddings, head, the last norm; the projector's queries and their norm, its map to the language model
        outside = 2 * (2 * HEAD + 4096) + 4 * (304 * 1024 + 2048 + 1024 * 4096 + 4096)
        assert parts["gathered"].weights == 2 * 2 * layer + outside
    assert estimate.total == sum(part.total for part in estimate.parts)


def test_stage_2_with_lora():
    model = meta_model(ParGoConfig())
    freeze_all_but(model, "projector")
    adapted = add_lora(model, LoraSettings())
    one, many = (estimate_memory(adapted, gpus, engine="zero2") for gpus in (1, 32))
    language = next(part for part in one.parts if part.part == "language_model")
    assert language.trained == LORA
    assert language.parameters == LANGUAGE + LORA
    assert language.weights == 2 * LANGUAGE + 4 * LORA
    # PEFT keeps the projector as it was beside the trained one
    assert next(part for part in one.parts if part.part == "projector").weights == 2 * 4 * PROJECTOR
    # optimizer states and gradients are what more GPUs divide
    assert one.total - many.total == pytest.approx(16 * (LORA + PROJECTOR) * 31 / 32, abs=100)
    assert 24 * GIB < one.total < 30 * GIB
    sharded = estimate_memory(adapted, 32, engine="fsdp2")
    assert sharded.total < many.total / 2


def test_without_checkpointing_every_layer_keeps_its_inside(model):
    kept = {
        part.part: part.activations
        for part in estimate_memory(model, 1, sequence_length=100, gradient_checkpointing=False).parts
    }
    assert kept["language_model"] == 2 * 100 * 32 * (8 * 4096 + 3 * 11008)


def test_table_and_errors(model):
    text = estimate_memory(model, 32).describe()
    assert "32 in all" in text
    assert [line.split()[0] for line in text.splitlines()[1:]] == [
        "vision_tower",
        "projector",
        "language_model",
        "lm_head",
        "all",
    ]
    with pytest.raises(ValueError, match=r"gpus=0 must be at least 1"):
        estimate_memory(model, 0)
    with pytest.raises(ValueError, match=r"engine='zero3' is unknown; it must be one of ddp, zero2, fsdp2"):
        estimate_memory(model, 1, engine="zero3")
