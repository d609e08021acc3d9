"""``ProjectorKind.reads``: an option is in it exactly where another value makes another projector."""

import pytest
import torch

from pargo_mllm.configuration import PROJECTORS, ParGoProjectorConfig
from pargo_mllm.projectors import build_projector

BASE = {
    "vision_hidden_size": 32,
    "output_size": 24,
    "feature_grid": [4, 4],
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_partial_tokens": 12,
    "num_global_tokens": 4,
}
OTHERWISE = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    # what is left with the other four, or twelve, is a square too: the abstractors take no other number
    "num_partial_tokens": 5,
    "num_global_tokens": 13,
    "token_order": "tiles",
    "num_sampling_points": 2,
    "partial_global_perception": False,
    "cascaded_partial_perception": False,
    "windows": [3, 5],
    "edge": "truncate",
    "global_self_attention": True,
    "query_position_embeddings": True,
    "hidden_act": "relu",
    "layer_norm_eps": 1e-2,
    "initializer_range": 0.3,
    "query_initializer_range": 0.4,
    "output_initializer_range": 0.5,
}
# the model's own, the type itself, and two that change no number: how it is computed, and the dropout that must be 0
REST = {"vision_hidden_size", "output_size", "feature_grid", "projector_type", "kernel_impl", "attention_dropout"}


def tokens(projector_type, **options):
    torch.manual_seed(0)
    projector = build_projector(ParGoProjectorConfig(projector_type=projector_type, **{**BASE, **options}))
    with torch.no_grad():
        return projector(torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(1)))


def test_every_option_is_tried():
    assert OTHERWISE.keys() | REST == ParGoProjectorConfig.__annotations__.keys()


@pytest.mark.parametrize("projector_type", PROJECTORS)
def test_an_option_is_read_where_it_changes_something(projector_type):
    usual = tokens(projector_type)
    changes = {name for name, value in OTHERWISE.items() if _differ(usual, tokens(projector_type, **{name: value}))}
    assert changes == {*PROJECTORS[projector_type].reads} - {"kernel_impl"}


def _differ(one, other):
    return one.shape != other.shape or not torch.equal(one, other)
