"""Tokens to patches: planted maps are found exactly, Jacobians are autograd's, masks hold, methods say what they are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pargo_mllm.alignment.attribution import METHODS, AttributionError, attribute, attribute_features, possible_methods
from pargo_mllm.alignment.attribution.result import shares_of
from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.configuration import PROJECTORS, ParGoProjectorConfig, ProjectorKind
from pargo_mllm.pictures.token_maps import token_maps
from pargo_mllm.projectors.token_grid import tile_order
from tests.mllm.made import by_hand
from tests.mllm.made.planted import PlantedProjector

GRID = {"feature_grid": [4, 4]}
POSSIBLE = {
    "pargo": ("slices", "reach", "jacobian", "gradient", "attention", "rollout"),
    "qformer": ("jacobian", "gradient", "attention", "rollout"),
    "linear": ("slices", "jacobian", "gradient"),
    "mlp": ("slices", "jacobian", "gradient"),
    "resampler": ("jacobian", "gradient", "attention", "rollout"),
    "c_abstractor": ("slices", "jacobian", "gradient"),
    "d_abstractor": ("slices", "jacobian", "gradient", "attention", "rollout"),
}


def some_features(count=16, dtype=torch.float64):
    return torch.randn(count, 24, generator=torch.Generator().manual_seed(3), dtype=dtype)


def blocks(projector, features):
    """Norms of the Jacobian's blocks by autograd's own function, ``[tokens, n_v]``."""
    whole = torch.autograd.functional.jacobian(lambda given: projector(given[None])[0], features, vectorize=True)
    return whole.square().sum(dim=(1, 3)).sqrt()


@pytest.fixture
def planted(monkeypatch):
    monkeypatch.setitem(PROJECTORS, "planted", ProjectorKind("tests.mllm.made.planted.PlantedProjector"))

    def make(mixing, widths=(5, 7)):
        config = ParGoProjectorConfig(
            projector_type="planted",
            vision_hidden_size=widths[0],
            output_size=widths[1],
            num_attention_heads=1,
            num_partial_tokens=len(mixing),
            num_global_tokens=0,
        )
        projector = PlantedProjector(config).eval()
        projector.mixing = torch.nn.Parameter(mixing.to(projector.mixing))
        return projector

    return make


@pytest.mark.parametrize("widths", [(5, 7), (7, 5)])
def test_a_planted_map_is_found_exactly(planted, widths):
    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.lists(st.integers(-4, 4), min_size=6, max_size=6), min_size=1, max_size=5))
    def check(rows):
        mixing = torch.tensor(rows, dtype=torch.float32)
        projector = planted(mixing, widths)
        found = attribute_features(projector, torch.randn(6, widths[0]), "jacobian")
        sizes = mixing.abs()
        norm = projector.output_proj.weight.norm().item()
        torch.testing.assert_close(found.values, sizes * norm, rtol=1e-5, atol=0)
        torch.testing.assert_close(found.shares, sizes / sizes.sum(1, keepdim=True).clamp(min=1), rtol=1e-5, atol=0)
        assert (found.exact, found.error) == (True, None)

    check()


def test_gradient_times_input_of_a_planted_map_is_its_share_of_the_token(planted):
    mixing = torch.tensor([[1.0, 3.0, 0.0], [0.0, -1.0, 0.0]])
    projector, features = planted(mixing), torch.randn(3, 5)
    with torch.no_grad():
        tokens, mean = projector(features[None])[0], features.mean(0).expand(3, -1)
        added = projector.output_proj.weight @ (features - mean).T  # [7, 3]
        expected = mixing * (tokens @ added) / tokens.square().sum(1, keepdim=True)
        left = ((tokens - projector(mean[None])[0]) * tokens).sum(1) / tokens.square().sum(1)
    found = attribute_features(projector, features, "gradient")
    torch.testing.assert_close(found.values, expected)
    torch.testing.assert_close(found.values.sum(1), left)
    assert not found.exact


@pytest.mark.parametrize("kind", POSSIBLE)
def test_the_jacobian_is_autograds(make_projector, kind):
    few = {"num_partial_tokens": 4, "num_hidden_layers": 2, **GRID}
    projector, features = make_projector(projector_type=kind, **few), some_features()
    found = attribute_features(projector, features, "jacobian")
    assert (found.exact, found.everywhere) == (True, kind == "linear")
    expected = blocks(projector, features).detach()
    torch.testing.assert_close(found.values.double(), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.shares.double(), expected / expected.sum(1, keepdim=True), rtol=1e-6, atol=1e-9)
    # fewer outputs than the last map has inputs
    narrow = make_projector(projector_type=kind, output_size=5, **few)
    torch.testing.assert_close(
        attribute_features(narrow, features, "jacobian", chunk=7).values.double(),
        blocks(narrow, features),
        rtol=1e-6,
        atol=1e-9,
    )


@pytest.mark.parametrize("kind", POSSIBLE)
def test_both_derivatives_are_finite_differences(make_projector, kind):
    few = {"num_partial_tokens": 4, "num_hidden_layers": 2, "output_size": 6, **GRID}
    projector, features, step = make_projector(projector_type=kind, **few), some_features(), 1e-6
    patch = 6
    with torch.no_grad():
        moved = features.repeat(48, 1, 1)
        for channel in range(24):
            moved[channel, patch, channel] += step
            moved[24 + channel, patch, channel] -= step
        tokens = projector(moved)
        columns = (tokens[:24] - tokens[24:]) / (2 * step)  # [24, tokens, 6]
        now = projector(features[None])[0]
    norms = columns.square().sum(dim=(0, 2)).sqrt()
    found = attribute_features(projector, features, "jacobian").values[:, patch].double()
    torch.testing.assert_close(found, norms, rtol=1e-5, atol=1e-7)
    added = torch.einsum("kic,k,ic->i", columns, features[patch] - features.mean(0), now) / now.square().sum(1)
    found = attribute_features(projector, features, "gradient").values[:, patch].double()
    torch.testing.assert_close(found, added, rtol=1e-5, atol=1e-6)


def test_an_estimate_has_no_bias_and_an_honest_error(make_projector):
    small = {"num_partial_tokens": 3, "num_global_tokens": 1, "num_hidden_layers": 1}
    projector, features = make_projector(**small).float(), some_features(6, torch.float32)
    exact = attribute_features(projector, features, "jacobian")
    seeds = range(120)
    tries = [attribute_features(projector, features, "jacobian", directions=6, seed=seed) for seed in seeds]
    assert not tries[0].exact
    assert tries[0].how.startswith("estimated from 6 random directions of 24")
    found, errors = (torch.stack([getattr(one, name) for one in tries]).double() for name in ("values", "error"))
    reached = exact.values > 0
    assert (found[:, ~reached] == 0).all(), "nothing is estimated where nothing is"
    truth = exact.values.double()[reached]
    squares = found[:, reached].square()
    totals = squares.sum(1) - truth.square().sum()
    assert abs(totals.mean()) < 3 * totals.std() / len(seeds) ** 0.5, "no bias"
    # the error of a square is twice the root times the root's
    told = (2 * errors[:, reached] * found[:, reached]).square().mean(0)
    assert told.sum() / squares.var(0).sum() == pytest.approx(1.0, abs=0.15)
    whole = attribute_features(projector, features, "jacobian", directions=99)
    assert whole.exact
    assert torch.equal(whole.values, attribute_features(projector, features, "jacobian").values)
    with pytest.raises(AttributionError, match="directions=1 must be at least 2"):
        attribute_features(projector, features, "jacobian", directions=1)


@pytest.mark.parametrize("order", ["raster", "tiles"])
@pytest.mark.parametrize("cascade", [True, False])
@pytest.mark.parametrize("edge", ["clamp", "truncate"])
def test_partial_tokens_come_from_within_their_reach(make_projector, order, cascade, edge):
    options = {"num_partial_tokens": 7, "num_global_tokens": 1, "num_hidden_layers": 3, "edge": edge}
    windows = [by_hand_width(layer, 3, 7) for layer in (1, 2, 3)]
    for depth in (1, 2, 3):
        projector = make_projector(
            **{**options, "num_hidden_layers": depth, "windows": windows[:depth]},
            token_order=order,
            cascaded_partial_perception=cascade,
            output_size=2,
            **GRID,
        )
        expected = by_hand.reach(7, 3, 16, edge)[depth - 1] if cascade else [by_hand.slice_of(i, 7, 16) for i in range(7)]
        places = tile_order(4, 4, 7).tolist() if order == "tiles" else list(range(16))
        may = torch.zeros(8, 16, dtype=torch.bool)
        may[7] = True
        for token, seen in enumerate(expected):
            may[token, [places[place] for place in seen]] = True
        reach = attribute_features(projector, some_features(), "reach")
        assert ((reach.shares > 0) == may).all()
        assert reach.exact
        assert len(reach.by_layer) == depth
        for method in ("jacobian", "rollout"):
            values = attribute_features(projector, some_features(), method).values
            assert (values[~may] == 0).all(), f"{method} looks outside"
            assert (values[may] != 0).all(), f"{method} finds nothing where something is"
        slices = attribute_features(projector, some_features(), "slices")
        for token in range(7):
            own = sorted(places[place] for place in by_hand.slice_of(token, 7, 16))
            assert slices.shares[token].nonzero()[:, 0].tolist() == own


def by_hand_width(layer, layers, partial):
    return max(1, layer * partial // layers)


@pytest.mark.parametrize("kind", [kind for kind, methods in POSSIBLE.items() if "rollout" in methods])
def test_rows_of_attention_and_rollout_sum_to_one(make_projector, kind):
    projector = make_projector(projector_type=kind, **GRID)
    for method in ("attention", "rollout"):
        found = attribute_features(projector, some_features(), method)
        assert not found.exact
        assert found.by_layer.shape == (3, 10, 16)
        torch.testing.assert_close(found.by_layer.sum(-1), torch.ones(3, 10))
        torch.testing.assert_close(found.shares.sum(-1), torch.ones(10))


def test_rollout_of_a_resampler_is_one_softmax_over_both(make_projector):
    projector, features = make_projector(projector_type="resampler"), some_features()
    weights = []
    with torch.no_grad():
        projector(features[None], weights=weights)
    known = [torch.zeros(16, dtype=torch.float64)] * 10
    for layer in weights:
        mean = layer[0].mean(dim=0)
        torch.testing.assert_close(mean.sum(-1), torch.ones(10, dtype=torch.float64))
        looked = [row[:16] + sum(row[16 + other] * known[other] for other in range(10)) for row in mean]
        known = [(one + add) / (one + add).sum() for one, add in zip(known, looked, strict=True)]
    torch.testing.assert_close(
        attribute_features(projector, features, "rollout").shares.double(), torch.stack(known), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("cascade", [True, False])
@pytest.mark.parametrize("among_global", [True, False])
def test_rollout_of_every_token_by_hand(make_projector, cascade, among_global):
    options = {"cascaded_partial_perception": cascade, "global_self_attention": among_global}
    projector, features = make_projector(**options), some_features()
    among, cross = [], []
    with torch.no_grad():
        projector.last_hidden_state(features[None], among, cross)
    # the rows that look at each other, partial ones first
    first, last = 0 if cascade else 8, 10 if among_global else 8
    known = [torch.zeros(16, dtype=torch.float64) for _ in range(10)]
    for layer in range(3):
        if last > first:
            seen = among[layer][0].mean(dim=0)
            heard = [sum(seen[i - first, j - first] * known[j] for j in range(first, last)) for i in range(first, last)]
            known[first:last] = [(one + two) / 2 for one, two in zip(known[first:last], heard, strict=True)]
        known = [one + cross[layer][0].mean(dim=0)[token] for token, one in enumerate(known)]
        known = [one / one.sum() for one in known]
    found = attribute_features(projector, features, "rollout")
    torch.testing.assert_close(found.shares.double(), torch.stack(known), rtol=1e-6, atol=1e-7)


def test_rollout_of_partial_tokens_is_that_of_the_pictures(make_model, processor, pictures):
    model = make_model(global_self_attention=True)
    maps, found = token_maps(model, processor, pictures[0]), attribute(model, processor, pictures[0], "rollout")
    torch.testing.assert_close(found.by_layer[:, :8], torch.from_numpy(maps.knowledge()), rtol=1e-5, atol=1e-6)
    weights = attribute(model, processor, pictures[0], "attention")
    torch.testing.assert_close(weights.values, torch.from_numpy(maps.cross).mean(0), rtol=1e-5, atol=1e-6)


def test_weights_of_sampling_points_are_what_is_mixed(make_projector):
    projector, features = make_projector(projector_type="d_abstractor", **GRID), some_features()
    attention = projector.layers[0].attention
    kept, seen = [], []
    attention.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[:3]))
    with torch.no_grad():
        projector(features[None])
        tokens, places, source = kept[0]
        expected = attention(tokens, places, source, seen)
        value = attention.value_proj(source).flatten(1, 2)[0].unflatten(-1, (2, -1)).transpose(0, 1)  # [H, n_v, D]
        mixed = attention.o_proj((seen[0][0] @ value).transpose(0, 1).flatten(1))
    torch.testing.assert_close(mixed, expected[0])


@pytest.mark.parametrize("kind", POSSIBLE)
def test_every_projector_has_its_methods_and_refuses_others(make_model, processor, pictures, kind):
    model = make_model(projector_type=kind)
    assert possible_methods(model.model.projector) == POSSIBLE[kind]
    tokens = model.config.num_image_tokens
    for method in METHODS:
        if method not in POSSIBLE[kind]:
            names = ", ".join(POSSIBLE[kind])
            with pytest.raises(AttributionError, match=rf"'{method}' is not possible for projector_type='{kind}'.*use {names}"):
                attribute(model, processor, pictures[1], method)
            continue
        found = attribute(model, processor, pictures[1], method)
        assert found.method == method
        assert found.shares.shape == found.values.shape == (tokens, 16)
        torch.testing.assert_close(found.shares.sum(1), torch.ones(tokens))
        assert not found.shares.requires_grad


@pytest.mark.parametrize("kind", ["pargo", "c_abstractor"])
def test_a_model_in_bf16_is_attributed_in_fp32_and_left_as_it_was(make_model, processor, pictures, kind):
    model, halved = make_model(projector_type=kind), make_model(projector_type=kind).to(torch.bfloat16).train()
    with torch.no_grad():
        features = halved.model.get_vision_features(processor.encode_pictures(pictures[:1])[0])
        for name, parameter in model.named_parameters():
            parameter.copy_(halved.get_parameter(name))
    for method in ("jacobian", "gradient"):
        found = attribute(halved, processor, pictures[0], method).shares
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, attribute_features(model.model.projector, features.float(), method).shares)
    assert halved.training
    assert halved.model.projector.training
    assert next(halved.model.projector.parameters()).dtype == torch.bfloat16
    assert all(parameter.grad is None for parameter in halved.parameters())


def test_an_unknown_method_is_refused(make_model, processor, pictures):
    with pytest.raises(AttributionError, match="method='lime' is no attribution; there are slices, reach"):
        attribute(make_model(), processor, pictures[0], "lime")


@pytest.mark.parametrize("kind", ["pargo", "linear", "c_abstractor"])
def test_tiles_are_features_one_behind_the_other(make_model, processor, kind, monkeypatch):
    monkeypatch.setattr(processor, "max_tiles", 4)
    model, wide = make_model(projector_type=kind), Image.effect_noise((112, 28), 90).convert("RGB")
    pixels, counts = processor.encode_pictures([wide])
    assert counts.tolist() == [4]
    with torch.no_grad():
        features = model.model.get_vision_features(pixels)
    found = attribute(model, processor, wide, "jacobian", directions=2)
    tokens = model.config.num_image_tokens
    if kind == "pargo":
        assert found.shares.shape == (tokens, 64)
        slices = attribute(model, processor, wide, "slices").shares
        assert slices[1].nonzero()[:, 0].tolist() == list(range(8, 16)), "slices run over all tiles"
    else:
        assert found.shares.shape == (4 * tokens, 64)
        for tile in range(4):
            alone = attribute_features(model.model.projector, features[tile], "jacobian", directions=2)
            inside = found.values[tile * tokens : (tile + 1) * tokens]
            assert torch.equal(inside[:, tile * 16 : (tile + 1) * 16], alone.values)
            assert inside.count_nonzero() == alone.values.count_nonzero(), "a tile's tokens come from the tile"


def test_nothing_depends_on_inference_mode(make_model, processor, pictures):
    model = make_model(projector_type="mlp")
    expected = attribute(model, processor, pictures[0], "jacobian").values
    with torch.inference_mode():
        features = model.model.get_vision_features(processor.encode_pictures(pictures[:1])[0])
        for method in POSSIBLE["mlp"]:
            found = attribute_features(model.model.projector, features, method)
    assert found.shares.sum() == pytest.approx(16, abs=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(attribute(model, processor, pictures[0], "jacobian").values, expected)


def test_what_comes_from_an_object(make_projector):
    found = attribute_features(make_projector(), some_features(), "jacobian")
    left = torch.zeros(16)
    left[:8] = 0.5
    torch.testing.assert_close(found.of_object(left), found.shares[:, :8].sum(1) / 2)
    for wrong in (left[:9], left * 3, left * float("nan"), left.view(4, 4)):
        with pytest.raises(AttributionError, match=r"coverage of shape .* must be \[16\], 0...1"):
            found.of_object(wrong)


@pytest.mark.parametrize("kind", ["pargo", "linear", "resampler"])
def test_features_and_settings_that_mean_nothing_are_refused(make_projector, kind):
    projector, features = make_projector(projector_type=kind), some_features()
    for method in POSSIBLE[kind]:
        for wrong in (features[:0], features[0], features[None, :0], features[None][:0]):
            with pytest.raises(AttributionError, match="features of shape"):
                attribute_features(projector, wrong, method)
        for value in (float("nan"), float("inf")):
            with pytest.raises(AlignmentError, match="features: row 0 of 16 holds"):
                attribute_features(projector, features.where(features != features[0, 0], value), method)
        for name, value in (("chunk", -1), ("chunk", 0), ("directions", 0), ("directions", 2.5), ("seed", -1), ("seed", None)):
            with pytest.raises(AttributionError, match=f"{name}={value} must be"):
                attribute_features(projector, features, method, **{name: value})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=8))
def test_shares_are_shares(sizes):
    shares = shares_of(torch.tensor([sizes], dtype=torch.float64))
    assert (shares >= 0).all()
    assert shares.sum().item() == pytest.approx(1.0 if any(sizes) else 0.0, abs=1e-5)
