"""What is said of each feature's patch, held against the pixels that the encoder is given."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from pargo_mllm import ParGoProcessor
from pargo_mllm.alignment.windows import feature_coverage, need_size, windows
from pargo_mllm.data.regions import WHOLE, Region
from tests.mllm.made.sizes import PATCH, SIDE

PLAIN = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
CROPS = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
BORDERED = {"size": {"shortest_edge": SIDE + 8}, "crop_size": {"height": SIDE, "width": SIDE}}
FRAMES = {
    "stretched": (SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}, **PLAIN), {}),
    "cropped": (CLIPImageProcessorPil(**CROPS, **PLAIN), {}),
    "cropped, not resized": (CLIPImageProcessorPil(**CROPS, **PLAIN, do_resize=False), {}),
    "tiles": (SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}, **PLAIN), {"max_tiles": 6, "overview_tile": True}),
    "tiles with their borders cut off": (CLIPImageProcessorPil(**BORDERED, **PLAIN), {"max_tiles": 6}),
}


@pytest.mark.filterwarnings("ignore:CLIPImageProcessor")
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("size", [(112, 84), (60, 150), (96, 96)])
def test_coverage_is_what_the_encoder_is_shown(frame, size, tokenizer, make_config):
    image_processor, options = FRAMES[frame]
    processor = ParGoProcessor(image_processor, tokenizer, num_image_tokens=10, **options)
    width, height = size
    box = (0.25, 0.125, 0.75, 0.625)
    picture = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = (round(share * side) for share, side in zip(box, (width, height) * 2, strict=True))
    picture[top:bottom, left:right] = 255
    pixels, tiles = processor.encode_pictures([Image.fromarray(picture)])
    shown = pixels.mean(1).unflatten(1, (-1, PATCH)).unflatten(3, (-1, PATCH)).mean((2, 4))
    edges = (left / width, top / height, right / width, bottom / height)
    names, coverage = feature_coverage((Region(("white",), edges),), processor, make_config(), size)
    assert names == ("white",)
    assert coverage.shape == (1, int(tiles) * (SIDE // PATCH) ** 2)
    # resizing blurs the box's border by less than a pixel
    assert (coverage[0] - shown.flatten()).abs().max() < 0.15
    assert (coverage[0] - shown.flatten()).abs().mean() < 0.02
    assert coverage.max() == 1


def test_a_mirrored_view_and_a_class_token(processor, make_config):
    config = make_config()
    left = Region(("left",), (0.0, 0.0, 0.25, 1.0))
    both = (left, Region(("other",), (0.0, 0.0, 0.25, 1.0), window=(1.0, 0.0, 0.0, 1.0)))
    names, coverage = feature_coverage(both, processor, config, None)
    assert names == ("left", "other")
    grid = torch.zeros(4, 4)
    grid[:, 0] = 1
    assert torch.equal(coverage[0].view(4, 4), grid)
    assert torch.equal(coverage[1].view(4, 4), grid.flip(1))
    config.vision_config.model_type = "clip_vision_model"
    assert torch.equal(feature_coverage((left,), processor, config, None)[1][0], torch.cat((torch.zeros(1), grid.flatten())))


def test_sizes_are_asked_for_where_they_count(tokenizer, processor):
    assert not need_size(processor)
    assert windows(processor, None) == (WHOLE,)
    assert need_size(ParGoProcessor(processor.image_processor, tokenizer, max_tiles=2))
    with pytest.warns(UserWarning, match="crops"):
        assert need_size(ParGoProcessor(CLIPImageProcessorPil(**CROPS), tokenizer))
