"""2-D tiles: the order of patches in which slices are rectangles, and projectors that use it."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pargo_mllm import ParGoProjectorConfig, build_projector
from pargo_mllm.pictures.token_maps import token_maps
from pargo_mllm.projectors.token_grid import tile_order, token_grid
from tests.mllm.made.by_hand import slice_of
from tests.mllm.made.influence import features, influence


@given(rows=st.integers(1, 12), columns=st.integers(1, 12), partial=st.integers(1, 40), pictures=st.integers(1, 4))
def test_every_patch_comes_once_and_pictures_stay_apart(rows, columns, partial, pictures):
    order = tile_order(rows, columns, partial, pictures)
    assert sorted(order.tolist()) == list(range(pictures * rows * columns))
    assert (order // (rows * columns)).tolist() == sorted((order // (rows * columns)).tolist())


@pytest.mark.parametrize(
    ("rows", "columns", "partial", "pictures", "height", "width"),
    [
        (24, 24, 288, 1, 2, 1),  # the paper's sizes: pairs
        (24, 24, 144, 1, 2, 2),
        (24, 24, 72, 1, 4, 2),
        (24, 24, 288, 4, 4, 2),  # four tiles of a large picture: 8 patches a token
        (24, 24, 288, 2, 2, 2),
        (6, 8, 12, 1, 2, 2),  # not square
        (3, 8, 4, 1, 3, 2),
        (4, 6, 24, 1, 1, 1),
    ],
)
def test_slices_are_rectangles(rows, columns, partial, pictures, height, width):
    order = tile_order(rows, columns, partial, pictures)
    for token in range(partial):
        patches = [order[key].item() for key in slice_of(token, partial, len(order))]
        places = {divmod(patch, columns) for patch in patches}
        ys, xs = sorted({y for y, _ in places}), sorted({x for _, x in places})
        assert len(places) == len(patches) == height * width
        assert (len(ys), len(xs)) == (height, width)
        assert all(b - a == 1 for side in (ys, xs) for a, b in pairwise(side))


def test_slices_stay_close_together_where_no_rectangle_fits():
    order = tile_order(7, 11, 9)  # slices of 8 or 9 patches
    for token in range(9):
        places = [divmod(order[key].item(), 11) for key in slice_of(token, 9, 77)]
        ys, xs = zip(*places, strict=True)
        assert max(ys) - min(ys) < 7
        assert max(xs) - min(xs) < 11
        assert (max(ys) - min(ys) + 1) * (max(xs) - min(xs) + 1) < 30, "not a line, and not two ends of the picture"


@pytest.mark.parametrize(
    ("tokens", "rows", "columns", "grid"),
    [(304, 24, 24, (16, 19)), (144, 24, 24, (12, 12)), (24, 10, 30, (3, 8)), (24, 30, 10, (8, 3)), (1, 5, 5, (1, 1))],
)
def test_grids_of_tokens_have_the_shape_of_the_picture(tokens, rows, columns, grid):
    assert token_grid(tokens, rows, columns) == grid


def tile_of(token):
    """8 tokens on 4 x 4 patches: pairs of two rows and one column, there and back."""
    band, column = divmod(token, 4)
    column = 3 - column if band else column
    return [band * 8 + column, band * 8 + 4 + column]


def test_a_partial_token_reacts_to_its_tile_alone(make_projector):
    projector = make_projector(cascaded_partial_perception=False, token_order="tiles", feature_grid=[4, 4])
    moved = influence(projector, features(1)[0])
    for token in range(8):
        assert moved[token].nonzero().flatten().tolist() == tile_of(token)
    assert moved[8:].all()


def test_attention_is_told_in_the_order_of_the_picture(make_model, processor, pictures):
    model = make_model(token_order="tiles")
    weights = []
    model.model.projector.last_hidden_state(torch.randn(1, 16, 24), None, weights)
    for token in range(8):
        assert weights[0][0, 0, token].nonzero().flatten().tolist() == tile_of(token)
    maps = token_maps(model, processor, pictures[0])
    for token in range(8):
        assert (maps.owners() == token).nonzero()[0].tolist() == tile_of(token)
        assert maps.cross[0, token].nonzero()[0].tolist() == tile_of(token)


def test_what_does_not_fit_is_refused(make_projector):
    with pytest.raises(ValueError, match=r"feature_grid is None, and token_order='tiles'"):
        make_projector(token_order="tiles")
    with pytest.raises(ValueError, match=r"n_v=17 features for a picture, no multiple of the 16.*class token"):
        make_projector(token_order="tiles", feature_grid=[4, 4])(features(1, 17))
    with pytest.raises(ValueError, match=r"token_order='hilbert' is unknown.*'raster', 'tiles'"):
        ParGoProjectorConfig(token_order="hilbert")


@pytest.mark.parametrize("how", ["pargo", "sdpa", "eager"])
@pytest.mark.parametrize(
    "options", [{}, {"token_order": "tiles"}, {"projector_type": "qformer"}, {"projector_type": "resampler"}]
)
def test_packed_pictures_are_what_they_are_alone(make_projector, options, how):
    projector = make_projector(feature_grid=[4, 4], **options)
    projector.set_attn_implementation(how)
    alone = [features(1, 16 * tiles, seed=tiles) for tiles in (2, 1, 3)]
    ends = torch.tensor([0, 32, 48, 96], dtype=torch.int32)
    together = projector(torch.cat(alone, dim=1), cu_seqlens=ends)
    assert together.shape == (3, 10, 32)
    for index, picture in enumerate(alone):
        torch.testing.assert_close(together[index], projector(picture)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("how", ["pargo", "sdpa"])
def test_a_packed_picture_with_too_few_features_is_refused(how):
    config = ParGoProjectorConfig(vision_hidden_size=8, output_size=4, num_attention_heads=2, num_partial_tokens=8)
    projector = build_projector(config)
    projector.set_attn_implementation(how)
    with pytest.raises(ValueError, match=r"n_v=7 features for num_partial_tokens=8"):
        projector(torch.zeros(1, 27, 8), cu_seqlens=torch.tensor([0, 20, 27], dtype=torch.int32))
