"""What an endpoint is sent of a picture, decoded again, and what it is expected to make of it."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pargo_mllm.captioning.captions.asked import Asked, CaptionError, read_parameters, read_prompt
from pargo_mllm.captioning.captions.sent_picture import data_url, picture_tokens, sent_size
from pargo_mllm.data.pictures import PictureError, load_picture


def encoded(picture, form, **how):
    written = io.BytesIO()
    picture.save(written, form, **how)
    return written.getvalue()


def sent(content, max_side=2048):
    """(kind, bytes)"""
    head, _, told = data_url(content, "it", max_side).partition(",")
    return head, base64.b64decode(told, validate=True)


@pytest.mark.parametrize(("form", "kind"), [("PNG", "png"), ("JPEG", "jpeg"), ("WEBP", "webp")])
def test_bytes_that_every_model_takes_are_sent_as_they_are(form, kind):
    content = encoded(Image.linear_gradient("L").convert("RGB"), form)
    assert sent(content) == (f"data:image/{kind};base64", content)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.linear_gradient("L").resize((64, 32)).convert("RGB"), "JPEG", exif=exif, quality=95)


@pytest.mark.parametrize(
    "content",
    [
        turned(),
        encoded(Image.linear_gradient("L").convert("RGBA"), "PNG"),
        encoded(Image.linear_gradient("L").convert("CMYK"), "JPEG"),
        encoded(Image.linear_gradient("L"), "GIF"),
        encoded(Image.linear_gradient("L"), "BMP"),
        encoded(Image.linear_gradient("L"), "GIF", save_all=True, append_images=[Image.new("L", (256, 256))]),
    ],
    ids=["turned", "transparent", "inks", "gif", "bmp", "animated"],
)
def test_all_others_are_sent_as_a_viewer_shows_them(content):
    head, told = sent(content)
    assert head == "data:image/jpeg;base64"
    shown, meant = (np.asarray(load_picture(one), dtype=float) for one in (told, content))
    assert shown.shape == meant.shape
    assert np.abs(shown - meant).mean() < 4


def test_large_ones_are_scaled_down_and_small_ones_never_up():
    content = encoded(Image.new("RGB", (300, 100)), "PNG")
    assert Image.open(io.BytesIO(sent(content, 150)[1])).size == (150, 50) == sent_size((300, 100), 150)
    assert Image.open(io.BytesIO(sent(content, 400)[1])).size == (300, 100) == sent_size((300, 100), 400)


def test_half_a_picture_is_not_paid_for():
    content = encoded(Image.effect_noise((200, 200), 80), "JPEG")
    with pytest.raises(PictureError):
        data_url(content[: len(content) // 2], "it", 2048)


@pytest.mark.parametrize(
    ("size", "detail", "tokens"),
    # the examples of OpenAI's documentation, and both sides of a tile
    [
        ((1024, 1024), "high", 765),
        ((2048, 4096), "high", 1105),
        ((4096, 8192), "low", 85),
        ((512, 512), None, 255),
        ((513, 512), None, 425),
        ((4, 4), None, 255),
    ],
)
def test_tokens_are_those_of_the_providers_rule(size, detail, tokens):
    assert picture_tokens(size, detail) == tokens


def test_a_caption_is_kept_under_all_that_it_depends_on_and_nothing_else():
    asked = Asked("what?", "m")
    others = [
        Asked("what!", "m"),
        Asked("what?", "n"),
        Asked("what?", "m", detail="low"),
        Asked("what?", "m", max_side=512),
        Asked("what?", "m", parameters={"temperature": 0.5}),
    ]
    keys = {one.key("0" * 64) for one in (asked, *others)} | {asked.key("1" * 64)}
    assert len(keys) == len(others) + 2
    # a caption that was not cut off is the same under another limit
    assert Asked("what?", "m", max_tokens=7).key("0" * 64) == asked.key("0" * 64)
    assert Asked("what?", "m", parameters={"max_completion_tokens": 9}).key("0" * 64) == asked.key("0" * 64)


def test_the_limit_of_an_answer_has_one_name():
    content = encoded(Image.new("RGB", (8, 8)), "PNG")
    assert Asked("what?", "m", 50).request(content, "it", (8, 8)).parameters == {"max_tokens": 50}
    named = Asked("what?", "m", 50, parameters={"max_completion_tokens": 9}).request(content, "it", (8, 8))
    assert (named.parameters, named.expected.output) == ({"max_completion_tokens": 9}, 9)


def test_a_prompt_of_ones_own(tmp_path):
    ours = read_prompt(None)
    assert "region by region" in ours
    (tmp_path / "p.txt").write_text("\ufeff  What is here?\n")
    assert read_prompt(tmp_path / "p.txt") == "What is here?"
    for text, says in ((b"", "from 1 to"), (b"\xff", "UTF-8"), (b"<image> what?", "words alone"), (b"x" * 100_001, "100,001")):
        (tmp_path / "p.txt").write_bytes(text)
        with pytest.raises(CaptionError, match=says):
            read_prompt(tmp_path / "p.txt")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "NaN", '{"temperature": NaN}', '{"stream": true}', '{"model": "x"}', '{"max_tokens": "9"}', "[" * 99999],
)
def test_parameters_that_are_none(text):
    with pytest.raises(CaptionError, match="--parameters"):
        read_parameters(text)
