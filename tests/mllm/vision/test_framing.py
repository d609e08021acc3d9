"""The encoder sees whole pictures; an image processor that cuts them off is noticed."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    SiglipImageProcessorPil,
    SiglipVisionModel,
    ViTImageProcessorPil,
)

from pargo_mllm import ParGoProcessor
from pargo_mllm.assembly import model_and_processor
from pargo_mllm.loading import open_model
from pargo_mllm.vision.framing import seen_part, smallest_part, stretched
from tests.mllm.made.miniature_families import make_language_model, make_tokenizer, small_encoder
from tests.mllm.made.sizes import SIDE

SQUARE = {"height": SIDE, "width": SIDE}
PADS = {"size": {"max_height": SIDE, "max_width": SIDE}, "do_center_crop": False, "do_pad": True, "pad_size": SQUARE}


def crops():
    """CLIP's own way at a small size: the short side to SIDE, and the middle of the long one."""
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE)


def assembled(image_processor, **options):
    tokenizer = make_tokenizer("vicuna")
    return model_and_processor(
        SiglipVisionModel(small_encoder()),
        make_language_model("vicuna", tokenizer),
        tokenizer,
        image_processor,
        {"num_hidden_layers": 1, "num_attention_heads": 2, "num_partial_tokens": 8, "num_global_tokens": 2},
        **options,
    )


@pytest.mark.parametrize(
    ("image_processor", "size", "part"),
    [
        (crops(), (160, 40), (0.375, 0, 0.625, 1)),
        (crops(), (40, 80), (0, 0.25, 1, 0.75)),
        (crops(), (50, 50), (0, 0, 1, 1)),
        (CLIPImageProcessorPil(), (128, 32), (0.375, 0, 0.625, 1)),
        (CLIPImageProcessorPil(size={"height": 280, "width": 280}), (128, 32), (0.1, 0.1, 0.9, 0.9)),
        (BitImageProcessorPil(size={"shortest_edge": 256}), (64, 64), (0.0625, 0.0625, 0.9375, 0.9375)),
        (SiglipImageProcessorPil(), (128, 32), (0, 0, 1, 1)),
        (ViTImageProcessorPil(), (32, 128), (0, 0, 1, 1)),
        # beside the picture there is padding
        (CLIPImageProcessorPil(**PADS), (112, 56), (0, 0, 1, 2)),
    ],
    ids=range(9),
)
def test_the_part_that_is_seen_is_what_the_sizes_say(image_processor, size, part):
    assert seen_part(image_processor, *size) == pytest.approx(part, abs=0.012)


def ends(processor):
    """Colours of the left and the right of what the encoder gets of a picture that is red, black in the middle, and blue."""
    picture = Image.new("RGB", (160, 40))
    picture.paste("red", (0, 0, 40, 40))
    picture.paste("blue", (120, 0, 160, 40))
    pixels = processor(text=["<image>"], images=[[picture]], return_tensors="pt")["pixel_values"][0]
    dark, light = (
        processor.image_processor(Image.new("RGB", (9, 9), c))["pixel_values"][0][:, :1, :1] for c in ("black", "white")
    )
    shares = (pixels - torch.as_tensor(np.asarray(dark))) / torch.as_tensor(np.asarray(light - dark))
    assert shares.shape == (3, SIDE, SIDE)
    return shares[..., 1:5].mean(dim=(1, 2)).round().tolist(), shares[..., -5:-1].mean(dim=(1, 2)).round().tolist()


@pytest.mark.parametrize(
    "image_processor",
    [
        crops(),
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, do_center_crop=False),
        BitImageProcessorPil(crop_size=SQUARE),
    ],
    ids=["crops", "keeps the shape", "resizes and crops"],
)
def test_a_model_is_assembled_to_see_whole_pictures_and_says_so(image_processor):
    with pytest.warns(
        UserWarning, match=rf"crops pictures, or keeps their shape.*stretched to {{'height': {SIDE}, 'width'.*'crop'"
    ):
        _, processor = assembled(image_processor)
    assert ends(processor) == ([1, 0, 0], [0, 0, 1])
    assert processor.image_processor.image_mean == image_processor.image_mean


@pytest.mark.parametrize(
    "image_processor",
    [
        CLIPImageProcessorPil(),
        SiglipImageProcessorPil(),
        SiglipImageProcessorPil(size={"height": SIDE - 4, "width": SIDE - 4}),
        BitImageProcessorPil(),
    ],
    ids=["crops", "stretches", "smaller", "resizes and crops"],
)
def test_an_image_processor_of_another_size_gets_the_encoders(image_processor):
    own = image_processor(Image.new("RGB", (9, 9)))["pixel_values"][0].shape[-1]
    both = rf"makes pictures of {own} pixels and the encoder takes {SIDE}"
    with pytest.warns(UserWarning, match=rf"{both}.*stretched to {{'height': {SIDE}, 'width': {SIDE}}}"):
        model, processor = assembled(image_processor)
    assert ends(processor) == ([1, 0, 0], [0, 0, 1])
    assert processor.image_processor.image_mean == image_processor.image_mean
    inputs = processor(text=["<image>"], images=[[Image.new("RGB", (30, 9))]], return_tensors="pt")
    assert model(**inputs).logits.isfinite().all()
    with pytest.raises(ValueError, match=both):
        assembled(image_processor, framing="crop")


def test_a_crop_that_is_wanted_is_kept_and_every_opening_says_so(tmp_path):
    said = r"CLIPImageProcessorPil crops: of a picture four times as long as wide the encoder sees the middle 25 %"
    with pytest.warns(UserWarning, match=said):
        model, processor = assembled(crops(), framing="crop")
    assert ends(processor) == ([0, 0, 0], [0, 0, 0])
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=said) as told:
        _, opened = open_model(tmp_path)
    assert sum("crops" in str(warning.message) for warning in told) == 1
    assert ends(opened) == ([0, 0, 0], [0, 0, 0])


@pytest.mark.parametrize("image_processor", [SiglipImageProcessorPil(size=SQUARE), CLIPImageProcessorPil(**PADS)])
def test_what_shows_whole_pictures_is_kept_in_silence(image_processor):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, processor = assembled(image_processor)
    assert processor.image_processor is image_processor


def test_tiles_are_square_and_cut_off_only_where_squares_are(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ParGoProcessor(crops(), tokenizer, max_tiles=4)
    with pytest.warns(UserWarning, match=r"crops: of a tile the encoder sees the middle 70 %"):
        ParGoProcessor(CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size=SQUARE), tokenizer, max_tiles=4)


def test_what_cannot_be_stretched_is_refused():
    with pytest.raises(
        ValueError, match=r"ConvNextImageProcessorPil shows the encoder parts.*SiglipImageProcessorPil.*framing='crop'"
    ):
        stretched(ConvNextImageProcessorPil(size={"shortest_edge": 112}, crop_pct=0.5))
    with pytest.raises(ValueError, match=r"framing='pad' must be one of 'stretch', 'crop'"):
        assembled(crops(), framing="pad")


def test_nothing_is_told_of_what_is_no_picture():
    assert smallest_part(lambda picture: {"flattened_patches": [0]}) == 1
    assert smallest_part(lambda picture: {"pixel_values": [np.zeros((3, 8, 8))]}) == 1
