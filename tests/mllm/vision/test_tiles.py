"""Large and non-square pictures as tiles: how they are cut, and what the model makes of them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor, CLIPImageProcessorPil, LlamaForCausalLM

from pargo_mllm import ParGoProcessor
from pargo_mllm.vision.tiling import cut_tiles, tile_grid
from tests.mllm.made.sizes import SIDE

TOGETHER, APART = ("pargo", "qformer", "resampler"), ("linear", "mlp", "c_abstractor", "d_abstractor")


@pytest.fixture
def tiler(processor):
    """A processor that cuts at most four tiles; keyword arguments go to it."""

    def make(**options):
        options = {"num_image_tokens": 10, "max_tiles": 4, **options}
        return ParGoProcessor(processor.image_processor, processor.tokenizer, **options)

    return make


@pytest.fixture
def large():
    """Pictures of four, one and two tiles."""
    generator = np.random.default_rng(2)
    sizes = ((60, 56), (28, 28), (24, 54))
    return [Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)) for height, width in sizes]


@pytest.mark.parametrize(
    ("size", "most", "grid"),
    [
        ((336, 336), 9, (1, 1)),
        ((100, 80), 9, (1, 1)),  # no more tiles than the picture has pixels for
        ((672, 336), 9, (1, 2)),
        ((336, 1008), 9, (3, 1)),
        ((672, 672), 9, (2, 2)),
        ((672, 672), 3, (1, 1)),  # within the cap a square stays a square
        ((1344, 672), 4, (1, 2)),
        ((1344, 672), 8, (2, 4)),
        ((5000, 100), 6, (1, 6)),
        ((1, 1), 4, (1, 1)),
    ],
)
def test_grids(size, most, grid):
    assert tile_grid(*size, 336, most) == grid


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), most=st.integers(1, 12))
def test_grids_keep_the_cap_and_turn_with_the_picture(width, height, most):
    rows, columns = tile_grid(width, height, 336, most)
    assert 1 <= rows * columns <= most
    turned = tile_grid(height, width, 336, most)
    assert turned[0] * turned[1] == rows * columns


def test_tiles_are_the_picture_in_raster_order_without_padding():
    pixels = np.arange(56 * 84 * 3, dtype=np.uint32).reshape(56, 84, 3).astype(np.uint8)
    tiles = cut_tiles(Image.fromarray(pixels), 28, 6)
    assert len(tiles) == 6
    rows = [np.concatenate([np.asarray(tile) for tile in tiles[first : first + 3]], axis=1) for first in (0, 3)]
    assert np.array_equal(np.concatenate(rows), pixels)
    with_overview = cut_tiles(Image.fromarray(pixels), 28, 6, overview=True)
    assert len(with_overview) == 7
    expected = Image.fromarray(pixels).resize((28, 28), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(with_overview[0]), np.asarray(expected))
    assert len(cut_tiles(Image.fromarray(pixels[:28, :28]), 28, 6, overview=True)) == 1


def test_the_processor_says_how_many_tiles_each_picture_has(tiler, large):
    batch = tiler()(text=["<image> what", "<image> <image>"], images=[large[:1], large[1:]], padding=True, return_tensors="pt")
    assert batch["tile_counts"].tolist() == [4, 1, 2]
    assert batch["pixel_values"].shape == (7, 3, SIDE, SIDE)
    image = tiler().image_token_id
    assert (batch["input_ids"] == image).sum(-1).tolist() == [10, 20]
    apart = tiler(tokens_per_tile=True, overview_tile=True)
    batch = apart(text=["<image> what", "<image> <image>"], images=[large[:1], large[1:]], padding=True, return_tensors="pt")
    assert batch["tile_counts"].tolist() == [5, 1, 3]
    assert (batch["input_ids"] == image).sum(-1).tolist() == [50, 40]


def test_an_array_is_cut_as_the_picture_in_it(tiler, large):
    as_picture, as_array = (
        tiler()(text=["<image>"], images=[[given]], return_tensors="pt") for given in (large[0], np.asarray(large[0]))
    )
    assert torch.equal(as_array["pixel_values"], as_picture["pixel_values"])
    assert as_array["tile_counts"].tolist() == [4]


def test_the_side_of_a_tile_is_what_the_encoder_gets(tokenizer, large):
    clip = CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": SIDE, "width": SIDE})
    batch = ParGoProcessor(clip, tokenizer, max_tiles=4)(text=["<image>"], images=[large[:1]], return_tensors="pt")
    assert batch["pixel_values"].shape == (4, 3, SIDE, SIDE)
    oblong = CLIPImageProcessorPil(size={"height": 28, "width": 56}, do_center_crop=False)
    with pytest.raises(ValueError, match=r"size .*28.*56.* is no square, which max_tiles=4 needs"):
        ParGoProcessor(oblong, tokenizer, max_tiles=4)(text=["<image>"], images=[large[:1]])


@pytest.mark.parametrize("options", [{}, {"tokens_per_tile": True}, {"tokens_per_tile": True, "overview_tile": True}])
def test_serving_engines_are_told_the_tokens_and_tiles_of_each_picture(tiler, large, options):
    processor = tiler(**options)
    batch = processor(text=["<image> <image> <image>"], images=[large], return_tensors="pt")
    told = processor._get_num_multimodal_tokens(image_sizes=[(picture.height, picture.width) for picture in large])
    assert told["num_image_patches"] == batch["tile_counts"].tolist()
    assert sum(told["num_image_tokens"]) == (batch["input_ids"] == processor.image_token_id).sum().item()


def test_options_survive_saving(tiler, large, tmp_path):
    tiler(overview_tile=True, tokens_per_tile=True).save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert (loaded.max_tiles, loaded.overview_tile, loaded.tokens_per_tile) == (4, True, True)
    assert loaded(text=["<image>"], images=[large[:1]], return_tensors="pt")["tile_counts"].tolist() == [5]


@torch.no_grad()
@pytest.mark.parametrize("kind", TOGETHER + APART)
def test_a_picture_of_tiles_is_each_tile_encoded_alone(make_model, tiler, large, kind):
    model = make_model(projector_type=kind)
    apart = kind in APART
    processor = tiler(num_image_tokens=model.config.num_image_tokens, tokens_per_tile=apart)
    batch = processor(text=["<image> what shape"], images=[large[:1]], return_tensors="pt")
    encoded = [model.model.vision_tower(tile[None]).last_hidden_state for tile in batch["pixel_values"]]
    project = model.model.projector
    if apart:
        expected = torch.cat([project(features) for features in encoded])
    else:
        expected = project(torch.cat(encoded, dim=1))
    out = model(**batch)
    torch.testing.assert_close(out.image_hidden_states, expected, rtol=0, atol=1e-5)
    words = model.get_input_embeddings()(batch["input_ids"][:, -2:])
    inputs = torch.cat((expected.flatten(0, 1)[None], words), dim=1)
    torch.testing.assert_close(out.logits, model(inputs_embeds=inputs).logits, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", TOGETHER + APART)
def test_pictures_of_different_tiles_in_a_batch_are_bit_for_bit_what_they_are_alone(make_model, tiler, large, kind):
    model = make_model(projector_type=kind, **({"token_order": "tiles"} if kind == "pargo" else {}))
    processor = tiler(num_image_tokens=model.config.num_image_tokens, tokens_per_tile=kind in APART)

    def tokens(pictures):
        batch = processor(text=["<image>" * len(pictures)], images=[pictures], return_tensors="pt")
        return model.get_image_features(batch["pixel_values"], tile_counts=batch["tile_counts"]).pooler_output

    together, alone = tokens(large), [tokens([picture]) for picture in large]
    if kind == "c_abstractor":
        # its gates are a product with one row a tile, and products of a few rows are summed in an order of their own
        torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)
    else:
        assert torch.equal(together, torch.cat(alone))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["pargo", "linear"])
def test_beams_keep_every_prompt_with_its_pictures(make_model, tiler, large, kind):
    model = make_model(projector_type=kind)
    processor = tiler(num_image_tokens=model.config.num_image_tokens, tokens_per_tile=kind == "linear")
    prompts, pictures = ["<image> what shape <image>", "<image> what"], [[large[0], large[1]], [large[2]]]
    settings = {"num_beams": 3, "max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    batch = processor(text=prompts, images=pictures, padding=True, return_tensors="pt")
    together = model.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :]
    # transformers' own model with the same weights, which knows nothing of pictures
    language_model = LlamaForCausalLM(model.config.text_config).eval()
    language_model.model.load_state_dict(model.model.language_model.state_dict())
    language_model.lm_head.load_state_dict(model.lm_head.state_dict())
    for index, prompt in enumerate(prompts):
        alone = processor(text=[prompt], images=[pictures[index]], return_tensors="pt")
        tokens = model.get_image_features(alone["pixel_values"], tile_counts=alone["tile_counts"]).pooler_output.flatten(0, 1)
        embeds = model.get_input_embeddings()(alone["input_ids"])
        embeds[alone["input_ids"] == model.config.image_token_id] = tokens
        assert together[index].tolist() == language_model.generate(inputs_embeds=embeds, **settings)[0].tolist()


def test_what_does_not_fit_is_refused(make_model, tiler, large):
    with pytest.raises(ValueError, match=r"max_tiles=0 must be at least 1"):
        tiler(max_tiles=0)
    batch = tiler()(text=["<image>"], images=[large[:1]], return_tensors="pt")
    for counts in ([3], [4, 0], [5, -1]):
        with pytest.raises(ValueError, match=r"tile_counts=\[.*must be positive and add up to the 4 images"):
            make_model()(**{**batch, "tile_counts": torch.tensor(counts)})
