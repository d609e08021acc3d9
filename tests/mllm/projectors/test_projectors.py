import pytest
import torch

from pargo_mllm import build_projector
from pargo_mllm.configuration import ParGoProjectorConfig
from tests.mllm.made import by_hand
from tests.mllm.made.influence import features, influence

OPTIONS = {
    "the paper": {},
    "truncated windows": {"edge": "truncate"},
    "the release": {"windows": "full", "global_self_attention": True, "query_position_embeddings": True},
    "no cascade": {"cascaded_partial_perception": False},
    "no masks": {"partial_global_perception": False},
    "Q-Former": {"projector_type": "qformer"},
    "no global tokens": {"num_global_tokens": 0},
    "no partial tokens": {"num_partial_tokens": 0},
    "one partial token": {"num_partial_tokens": 1},
    "unequal slices": {"num_partial_tokens": 7},
    "one layer": {"num_hidden_layers": 1},
    "wider than the encoder": {"hidden_size": 32},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@every_option
def test_equals_the_equations_token_by_token(make_projector, options):
    projector, pictures = make_projector(**options), features()
    with torch.no_grad():
        expected = by_hand.project(projector, pictures[1])
    torch.testing.assert_close(projector(pictures)[1], expected, rtol=0, atol=1e-11)


@every_option
def test_the_three_implementations_agree_forward_and_backward(make_projector, options):
    pictures, seen = features(), {}
    for how in ("pargo", "sdpa", "eager"):
        projector = make_projector(**options)
        projector.set_attn_implementation(how)
        source = pictures.clone().requires_grad_()
        out = projector(source)
        out.backward(torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(3)))
        seen[how] = [out.detach(), source.grad, *(parameter.grad for parameter in projector.parameters())]
        assert all(grad is not None for grad in seen[how]), "a parameter without gradient"
    for how in ("sdpa", "eager"):
        for one, other in zip(seen["pargo"], seen[how], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_without_the_cascade_a_partial_token_reacts_to_its_slice_alone(make_projector):
    projector = make_projector(cascaded_partial_perception=False)
    moved = influence(projector, features(1)[0])
    for token in range(8):
        assert moved[token].nonzero().flatten().tolist() == [2 * token, 2 * token + 1]
    assert moved[8:].all(), "a global token sees every feature"


@pytest.mark.parametrize("edge", ["clamp", "truncate"])
@pytest.mark.parametrize(("partial", "depth", "count"), [(8, 1, 16), (8, 3, 16), (9, 4, 24), (7, 3, 16)])
def test_knowledge_grows_layer_by_layer_as_the_cascade_says(make_projector, edge, partial, depth, count):
    projector = make_projector(num_partial_tokens=partial, num_hidden_layers=depth, edge=edge)
    expected, layers = by_hand.reach(partial, depth, count, edge), projector.layers
    for layer in range(depth):
        projector.layers = layers[: layer + 1]
        moved = influence(projector.last_hidden_state, features(1, count)[0])
        for token in range(partial):
            assert set(moved[token].nonzero().flatten().tolist()) == expected[layer][token], (layer, token)
        assert moved[partial:].all()


@pytest.mark.parametrize("among_global", [False, True])
def test_partial_and_global_tokens_never_look_at_each_other(make_projector, among_global):
    projector, picture = make_projector(global_self_attention=among_global), features(1)

    def run(batch):
        hidden = []
        for queries in batch:
            projector.query_tokens.copy_(queries[None])
            hidden.append(projector.last_hidden_state(picture)[0])
        return torch.stack(hidden)

    moved = influence(run, projector.query_tokens.detach()[0].clone())
    assert not moved[8:, :8].any(), "the global tokens bypass the cascade"
    assert not moved[:8, 8:].any()
    assert moved[8:, 8:].all().item() == among_global
    assert moved[:8, :8].all(), "after the last layer every partial token knows every other"


def test_a_qformer_is_all_global(make_projector):
    projector = make_projector(projector_type="qformer")
    assert influence(projector, features(1)[0]).all()


def test_pictures_of_a_batch_are_independent(make_projector):
    projector, pictures = make_projector(), features(3)
    together = projector(pictures)
    for index in range(3):
        torch.testing.assert_close(together[index], projector(pictures[index : index + 1])[0], rtol=0, atol=1e-13)


def test_gradient_checkpointing_changes_nothing_but_memory(make_projector):
    gradients, calls = [], []
    for checkpointing in (False, True):
        projector = make_projector().train()
        if checkpointing:
            projector.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        count = [0]
        projector.layers[1].mlp.register_forward_pre_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        projector(features()).square().sum().backward()
        gradients.append([parameter.grad for parameter in projector.parameters()])
        calls.append(count[0])
    assert calls == [1, 2], "with checkpointing a layer runs again in the backward pass"
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_weights_for_pictures_are_the_ones_that_were_used(make_projector):
    projector, pictures = make_projector(), features()
    among, across = [], []
    silent = projector.last_hidden_state(pictures)
    assert torch.equal(projector.last_hidden_state(pictures, among, across), silent)
    assert [tuple(w.shape) for w in across] == [(2, 2, 10, 16)] * 3
    assert [tuple(w.shape) for w in among] == [(1, 2, 8, 8)] + [(2, 2, 8, 8)] * 2
    seen = across[1][0].mean(0) > 0
    for token in range(8):
        assert seen[token].nonzero().flatten().tolist() == list(by_hand.slice_of(token, 8, 16))
    for weights in (*among, *across):
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_one_token_a_feature(make_projector, kind):
    projector, pictures = make_projector(projector_type=kind), features()
    expected = pictures
    if kind == "mlp":
        expected = torch.nn.functional.gelu(pictures @ projector.input_proj.weight.T + projector.input_proj.bias)
    expected = expected @ projector.output_proj.weight.T + projector.output_proj.bias
    torch.testing.assert_close(projector(pictures), expected)


@pytest.mark.parametrize("shape", [(16, 24), (2, 16, 25), (2, 16, 24, 1)])
@pytest.mark.parametrize("kind", ["pargo", "linear"])
def test_features_of_another_form_are_refused(make_projector, kind, shape):
    with pytest.raises(ValueError, match=rf"vision_features has shape \[{shape[0]}.*\[images, n_v, 24\]"):
        make_projector(projector_type=kind)(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("how", ["pargo", "sdpa", "eager"])
def test_fewer_features_than_partial_tokens_are_refused(make_projector, how):
    projector = make_projector()
    projector.set_attn_implementation(how)
    with pytest.raises(ValueError, match=r"n_v=7 features for num_partial_tokens=8.*fewer partial"):
        projector(features(1, 7))


def test_a_projector_alone_needs_its_widths():
    with pytest.raises(ValueError, match=r"output_size is None; set it"):
        build_projector(ParGoProjectorConfig(vision_hidden_size=16))


def test_initial_weights_follow_the_configuration():
    config = ParGoProjectorConfig(
        vision_hidden_size=128, output_size=256, num_hidden_layers=1, num_attention_heads=4,
        initializer_range=0.1, query_initializer_range=1.5, output_initializer_range=0.003, query_position_embeddings=True,
    )  # fmt: skip
    projector = build_projector(config)
    spread = {
        "query_tokens": 1.5,
        "output_proj.weight": 0.003,
        "position_embeddings": 0.1,
        "layers.0.cross_attention.q_proj.weight": 0.1,
    }
    for name, std in spread.items():
        assert dict(projector.named_parameters())[name].std().item() == pytest.approx(std, rel=0.05)
