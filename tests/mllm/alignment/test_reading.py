"""What tokens attend to, kept from the forward pass that trains them: compiled and with gradient checkpointing too."""

import copy

import pytest
import torch

from pargo_mllm.alignment.reading import read_shares
from pargo_mllm.projectors.attention import attention_kept


@pytest.mark.parametrize("order", ["raster", "tiles"])
def test_it_is_the_mean_over_heads_and_layers(order, make_projector):
    projector, features, cross = make_projector(token_order=order, feature_grid=[4, 4]), torch.randn(3, 16, 24).double(), []
    with attention_kept(projector, 2) as kept:
        projector(features)
    shares = read_shares(projector, kept, [16] * 3)
    projector.last_hidden_state(features, None, cross)
    torch.testing.assert_close(torch.stack(shares), torch.stack(cross).mean((0, 2))[:, 8:])
    projector(features)
    assert torch.equal(torch.stack(shares), torch.stack(read_shares(projector, kept, [16] * 3)))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["pargo", "resampler"])
def test_compiled_and_checkpointed_it_is_the_same(kind, make_projector):
    projector = make_projector(projector_type=kind).train()
    compiled, features = copy.deepcopy(projector), torch.randn(3, 16, 24).double()
    # what it becomes is the same behind every backend
    compiled.compile(backend="aot_eager")
    for checkpoints in (False, True):
        found = []
        for module in (projector, compiled):
            if checkpoints:
                module.gradient_checkpointing_enable({"use_reentrant": False})
            module.zero_grad()
            with attention_kept(module, 2) as kept:
                out = module(features)
            out.square().sum().backward()
            found.append([*read_shares(projector, kept, [16] * 3), module.query_tokens.grad])
        torch.testing.assert_close(*found)
