"""Conversations that share a row see what they see alone, past the window of every kind of layer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pargo_mllm.configuration import LanguageModelError
from pargo_mllm.data.feeding.conversations import EncodedConversation
from pargo_mllm.data.feeding.packing import alone, join, pack, pad_packed
from pargo_mllm.language.rows import what_rows_mix_up
from tests.mllm.made.tiny_causal import IMAGE, behind_pictures, tiny_model

WINDOW = 8
# a window in every layer; in some of them; none; chunks
WINDOWED = ("mistral", "starcoder2", "phi3", "qwen2", "gemma2", "gemma3_text", "cohere2", "ministral", "olmo3", "llama4_text")


def windowed(model_type):
    own = {"qwen2": {"use_sliding_window": True, "max_window_layers": 1}, "llama4_text": {"attention_chunk_size": WINDOW}}
    return behind_pictures(tiny_model(model_type, **own.get(model_type, {})))


def documents(lengths, seed=0):
    """Conversations of so many tokens behind a picture, [[prefix, first, second, …], …]."""
    generator = torch.Generator().manual_seed(seed)
    packed = []
    for prefix, *conversations in lengths:
        shown = [*torch.randint(6, 90, (prefix,), generator=generator).tolist(), *[IMAGE] * 10]
        said = [torch.randint(6, 90, (length,), generator=generator).tolist() for length in conversations]
        packed.append(
            pack(
                [EncodedConversation((*shown, *one), (False,) * (len(shown) + 2) + (True,) * (len(one) - 2)) for one in said],
                IMAGE,
            )
        )
    return packed


@torch.no_grad()
def states(model, sequence, pictures):
    batch = {name: value for name, value in pad_packed([sequence], 0).items() if name != "labels"}
    features = torch.randn(pictures, 16, 24, generator=torch.Generator().manual_seed(1))
    return model.model(**batch, vision_features=features).last_hidden_state[0]


@torch.no_grad()
def states_alone(model, sequence, picture):
    """The same by transformers' own masks: no mask is given at all."""
    features = torch.randn(2, 16, 24, generator=torch.Generator().manual_seed(1))[picture : picture + 1]
    return model.model(input_ids=sequence.input_ids[None], vision_features=features, use_cache=False).last_hidden_state[0]


@pytest.mark.parametrize(
    ("model_type", "implementation"),
    # Gemma 2's scores are capped, which sdpa does not offer
    [(name, how) for name in WINDOWED for how in ("sdpa", "eager") if (name, how) != ("gemma2", "sdpa")],
)
def test_packed_is_alone_past_the_window(model_type, implementation):
    model = windowed(model_type)
    model.set_attn_implementation({"text_config": implementation})
    first, second = documents([(3, 12, 15), (2, 20, 9)])
    row = join([first, second])
    together = states(model, row, 2)
    for document, one in enumerate((first, second)):
        for segment, sequence in enumerate(alone(one), start=1):
            own = states_alone(model, sequence, document)
            places = (row.documents == document) & ((row.segments == 0) | (row.segments == segment))
            assert len(own) == places.sum() > 2 * WINDOW
            assert (together[places] - own).abs().max() <= 2e-5 * own.abs().max()
    # the window matters: with full attention in every layer the states are others
    model.config.text_config.sliding_window = model.config.text_config.attention_chunk_size = 10_000
    assert (states(model, row, 2) - together).abs().max() > 1e-3


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(2, 16), min_size=2, max_size=4), min_size=1, max_size=2))
def test_packed_is_alone_whatever_the_lengths(lengths):
    model = GEMMA2
    packed = documents(lengths)
    row = join(packed)
    together = states(model, row, len(packed))
    for document, one in enumerate(packed):
        for segment, sequence in enumerate(alone(one), start=1):
            places = (row.documents == document) & ((row.segments == 0) | (row.segments == segment))
            own = states_alone(model, sequence, document)
            assert (together[places] - own).abs().max() <= 2e-5 * own.abs().max()


GEMMA2 = windowed("gemma2")


@pytest.mark.parametrize("model_type", [*WINDOWED, "llama", "phi", "mixtral"])
def test_a_check_that_runs_before_training_finds_nothing(model_type):
    assert what_rows_mix_up(windowed(model_type)) is None


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("qwen3_next", "layers of kind linear_attention"),
        ("gpt_neo", "layers of kind local"),
        ("bloom", ""),
        ("falcon_h1", ""),
        ("mpt", ""),
    ],
)
def test_layers_that_would_mix_conversations_up_are_found(model_type, reason):
    """Recurrent layers carry over what stands in front; distances in the row are not those in the conversation."""
    assert reason in what_rows_mix_up(windowed(model_type))


def test_windows_without_positions_are_refused():
    (row,) = documents([(3, 12, 15)])
    batch = pad_packed([row], 0)
    with pytest.raises(ValueError, match="position_ids are missing: the language model's layers of kind sliding_attention"):
        GEMMA2(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], vision_features=torch.zeros(1, 16, 24))


def test_flash_and_flex_attention_take_no_such_mask():
    model = windowed("mistral")
    model.config.text_config._attn_implementation = "flex_attention"
    (row,) = documents([(3, 12, 15)])
    with pytest.raises(LanguageModelError, match=r"attn_implementation='flex_attention'.*layout='documents'"):
        states(model, row, 1)
