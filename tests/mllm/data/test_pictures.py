"""Pictures of every kind are shown as a viewer shows them; what is none is refused by name."""

import base64
import colorsys
import http.server
import io
import os
import socket
import struct
import subprocess
import threading
import tracemalloc
import warnings
import zlib
from contextlib import contextmanager

import numpy as np
import PIL
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, ImageMode

from pargo_mllm.data.pictures import FirstFrameWarning, PictureError, decode_picture, load_picture, stored_size

SIDE = 16
UNIT = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)


def saved(picture, form, **options):
    """The bytes of a file. An older Pillow lacks a format, a mode of it, or reads its own file back not at all."""
    content = io.BytesIO()
    try:
        picture.save(content, form, **options)
        Image.open(content).load()
    except (KeyError, OSError) as error:
        pytest.skip(f"Pillow {PIL.__version__} writes no {form} of mode {picture.mode} ({error}): not read")
    return content.getvalue()


def quarters(values):
    """Four values, each over a quarter of the picture, as ``[SIDE, SIDE, C]``."""
    values = np.array(values).reshape(2, 2, -1)
    return values.repeat(SIDE // 2, axis=0).repeat(SIDE // 2, axis=1)


def on_white(colour, alpha):
    return [level * alpha / 255 + 255 - alpha for level in colour]


def from_lab(level, a, b):
    """CIE's own formulas, with Bradford's adaptation from D50 to sRGB's D65."""
    y = (level / 2.55 + 16) / 116
    cubes = [t**3 if t**3 > 216 / 24389 else (116 * t - 16) * 27 / 24389 for t in (y + a / 500, y, y - b / 200)]
    xyz = np.array(cubes) * (0.96422, 1, 0.82521)
    matrix = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = (np.array(matrix) @ xyz).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def from_ycbcr(y, blue, red):
    return y + 1.402 * (red - 128), y - 0.344136 * (blue - 128) - 0.714136 * (red - 128), y + 1.772 * (blue - 128)


PALETTE = [(0, 0, 0), (200, 10, 60), (7, 90, 250), (255, 255, 255)]

# of each mode: its pixels in memory, four of them; and what colour each is, from the mode's definition
MODES = {
    "1": ([0, 255, 255, 0], "u1", lambda v: [v] * 3),
    "L": ([0, 9, 130, 255], "u1", lambda v: [v] * 3),
    "LA": ([(0, 255), (0, 0), (200, 128), (9, 70)], "u1", lambda v, a: on_white([v] * 3, a)),
    "La": ([(0, 255), (0, 0), (100, 128), (9, 70)], "u1", lambda v, a: [v + 255 - a] * 3),
    "P": ([0, 1, 2, 3], "u1", lambda v: PALETTE[v]),
    "PA": ([(0, 255), (0, 0), (1, 128), (2, 70)], "u1", lambda v, a: on_white(PALETTE[v], a)),
    "RGB": ([(0, 0, 0), (255, 9, 90), (10, 200, 30), (255, 255, 255)], "u1", lambda *rgb: rgb),
    "RGBX": ([(0, 0, 0, 0), (255, 9, 90, 0), (10, 200, 30, 9), (255, 255, 255, 255)], "u1", lambda r, g, b, x: (r, g, b)),
    "RGBA": ([(0, 0, 0, 255), (0, 0, 0, 0), (200, 9, 90, 128), (10, 60, 30, 70)], "u1", lambda *p: on_white(p[:3], p[3])),
    "RGBa": (
        [(0, 0, 0, 255), (0, 0, 0, 0), (100, 9, 90, 128), (10, 60, 30, 70)],
        "u1",
        lambda *p: [v + 255 - p[3] for v in p[:3]],
    ),
    "CMYK": (
        [(0, 0, 0, 255), (0, 0, 0, 0), (255, 40, 0, 0), (10, 60, 90, 128)],
        "u1",
        lambda c, m, y, k: [(255 - ink) * (255 - k) / 255 for ink in (c, m, y)],
    ),
    "YCbCr": ([(0, 128, 128), (255, 128, 128), (100, 90, 160), (150, 140, 110)], "u1", from_ycbcr),
    "HSV": (
        [(0, 0, 0), (0, 0, 255), (20, 200, 180), (200, 100, 240)],
        "u1",
        lambda h, s, v: [255 * level for level in colorsys.hsv_to_rgb(h / 255, s / 255, v / 255)],
    ),
    "LAB": ([(0, 0, 0), (255, 0, 0), (140, 30, 20), (120, -5, -15)], "i1", from_lab),
    "I": ([0, 300, 30000, 65535], "i4", lambda v: [v / 257] * 3),
    "F": ([0, 0.1, 0.5, 1], "f4", lambda v: [v * 255] * 3),
    **{
        f"I;16{order}": ([0, 300, 30000, 65535], ">u2" if order == "B" else "u2", lambda v: [v / 257] * 3)
        for order in ("", "L", "B", "N")
    },
}
# files that hold the mode's pixels, or those of a wider one; other writers clip or shift before anything is read
FILES = {
    "1": "BMP DIB ICO IM MSP PCX PNG PPM SPIDER TGA TIFF XBM GIF JPEG WEBP AVIF",
    "L": "BMP DDS DIB GIF ICO IM JPEG JPEG2000 MPO PCX PNG PPM SGI SPIDER TGA TIFF WEBP AVIF",
    "LA": "DDS ICO IM JPEG2000 PNG TGA TIFF WEBP AVIF",
    "P": "GIF ICO PCX PNG TGA TIFF WEBP AVIF",
    "PA": "TIFF WEBP AVIF",
    "RGB": "BMP DDS DIB GIF ICO IM JPEG JPEG2000 MPO PCX PNG PPM QOI SGI TGA TIFF WEBP AVIF",
    "RGBX": "IM JPEG TIFF WEBP",
    "RGBA": "DDS ICO IM JPEG2000 PNG QOI TGA TIFF WEBP AVIF",
    "RGBa": "WEBP AVIF",
    "CMYK": "IM JPEG JPEG2000 MPO TIFF",
    "YCbCr": "IM JPEG JPEG2000 TIFF",
    "LAB": "TIFF",
    "I": "IM PPM TIFF",
    "F": "IM PPM SPIDER TIFF",
    "I;16": "ICO IM JPEG2000 PNG PPM TIFF",
    "I;16L": "IM TIFF",
    "I;16B": "ICO IM PNG TIFF",
}
# blocks are not kept to the level; chroma is shared between pixels
LOSSY = {"JPEG", "MPO", "WEBP", "AVIF", "JPEG2000"}


def made(mode):
    values, dtype, _ = MODES[mode]
    pixels = quarters(values)
    if mode == "1":
        return Image.fromarray(pixels[..., 0] > 0)
    picture = Image.frombytes(mode, (SIDE, SIDE), pixels.astype(dtype).tobytes())
    if mode.startswith("P"):
        picture.putpalette([level for colour in PALETTE for level in colour])
    return picture


def check(shown, mode, tolerance):
    values, _, colour = MODES[mode]
    expected = quarters([colour(*np.atleast_1d(value).tolist()) for value in values])
    assert (shown.mode, shown.size) == ("RGB", (SIDE, SIDE))
    # away from where the quarters meet
    inside = np.arange(SIDE) % (SIDE // 2) // 2 == 1
    difference = np.abs(np.asarray(shown) - expected.clip(0, 255))[inside][:, inside]
    assert difference.max() <= tolerance


# where Pillow rounds on the way: premultiplied pixels to 8 bits and back, chroma, and the profile of LAB
ROUNDED = {"La": 1.5, "RGBa": 2, "YCbCr": 1.5, "HSV": 3, "LAB": 3, "CMYK": 1.5, "RGBA": 1.5, "LA": 1.5, "PA": 1.5}


def test_the_table_holds_every_mode_of_pillow():
    every = set(Image.MODES) | {"I;16", "I;16L", "I;16B", "I;16N"}
    assert every == set(MODES)
    assert all(ImageMode.getmode(mode).mode == mode for mode in every)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_in_memory_is_shown(mode):
    check(load_picture(made(mode)), mode, ROUNDED.get(mode, 0.6))


@pytest.mark.filterwarnings("ignore:IM image format is deprecated")
@pytest.mark.parametrize(("mode", "form"), [(mode, form) for mode, forms in FILES.items() for form in forms.split()])
def test_every_mode_that_pillow_can_write_is_read(tmp_path, mode, form):
    options = {"quality": 100} if form in LOSSY - {"JPEG2000"} else {}
    content = saved(made(mode), form, **options)
    (tmp_path / "file").write_bytes(content)
    shown = load_picture(tmp_path / "file")
    check(shown, mode, 12 if form in LOSSY else ROUNDED.get(mode, 0.6))
    assert decode_picture(content, "x").tobytes() == shown.tobytes()


@pytest.mark.parametrize("dtype", ["u2", ">u2", "i2", "u4", "i4", "f4"])
def test_a_ramp_of_many_bits_keeps_its_steps(dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        values = UNIT.astype(dtype)
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        values = (low + np.floor(UNIT * (high - low))).astype(dtype)
    content = io.BytesIO()
    tifffile.imwrite(content, values, byteorder=">" if dtype.byteorder == ">" else "<", photometric="minisblack")
    shown = np.asarray(load_picture(content.getvalue()))[..., 0]
    assert np.abs(shown - UNIT * 255).max() <= 0.51
    assert len(np.unique(shown)) == 256


def test_a_tiff_says_which_way_round_and_how_many_bits():
    content = io.BytesIO()
    tifffile.imwrite(content, (UNIT * 65535).astype("u2"), photometric="miniswhite")
    assert np.abs(np.asarray(load_picture(content.getvalue()))[..., 0] - (255 - UNIT * 255)).max() <= 0.51
    # 12 bits, packed: two pixels in three bytes
    levels = np.round(UNIT * 4095).astype(int).ravel()
    packed = b"".join(struct.pack(">I", (a << 12 | b) << 8)[:3] for a, b in levels.reshape(-1, 2).tolist())
    tags = [(256, SIDE), (257, SIDE), (258, 12), (259, 1), (262, 1), (273, 134), (277, 1), (278, SIDE), (279, len(packed))]
    header = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in tags)
    shown = load_picture((header + bytes(134))[:134] + packed)
    assert np.abs(np.asarray(shown)[..., 0] - UNIT * 255).max() <= 0.55


RANGES = {
    "0...1": (UNIT, 0, 1),
    "a part of 0...1": (0.2 + UNIT / 4, 0, 1),
    "0...255": (UNIT * 200, 0, 255),
    "0...65535": (UNIT * 40000, 0, 65535),
    "below zero": (UNIT * 2 - 1, -1, 1),
    "very large": (UNIT * 9e30 - 2e30, -2e30, 7e30),
}


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("how", ["F", "float64", "tensor"])
def test_floats_are_scaled_and_never_clipped(name, how):
    values, low, high = RANGES[name]
    given = {
        "F": lambda: Image.fromarray(values.astype("f4")),
        "float64": lambda: values,
        "tensor": lambda: torch.tensor(values),
    }
    shown = np.asarray(load_picture(given[how]()))
    assert np.abs(shown[..., 0] - (values - low) / (high - low) * 255).max() <= 0.51


def test_numbers_that_are_none_do_not_decide_the_range():
    values = UNIT * 1e5 + 1
    values[0, :3] = np.nan, np.inf, -np.inf
    shown = np.asarray(load_picture(values))[..., 0]
    assert shown[0, :3].tolist() == [0, 255, 0]
    low = values[0, 3]
    assert np.abs(shown.ravel()[3:] - (values.ravel()[3:] - low) / (1e5 + 1 - low) * 255).max() <= 0.51
    with pytest.raises(PictureError, match=r"an array .*holds no number"):
        load_picture(np.full((8, 8), np.nan))
    assert np.asarray(load_picture(np.full((8, 8), -7.0))).max() == 0
    assert np.isfinite(np.asarray(load_picture((2 * UNIT - 1) * 1.7e308))).all()


COLOURS = np.random.default_rng(0).integers(0, 256, (10, 12, 4), dtype=np.uint8)


@pytest.mark.parametrize("scale", [None, "float", "uint16", "int64", "bfloat16"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("first", [False, True])
def test_arrays_and_tensors_are_read_either_way_round(scale, channels, first):
    pixels = COLOURS[..., :channels]
    expected = np.broadcast_to(pixels[..., :3], (10, 12, 3)).astype(float)
    if channels == 4:
        alpha = pixels[..., 3:] / 255
        expected = expected * alpha + 255 * (1 - alpha)
    given = {
        None: lambda: pixels,
        "float": lambda: pixels / 255,
        "uint16": lambda: pixels.astype("u2") * 257,
        "int64": lambda: pixels.astype("i8"),
        "bfloat16": lambda: torch.tensor(pixels / 255).bfloat16(),
    }[scale]()
    if first:
        given = given.permute(2, 0, 1) if isinstance(given, torch.Tensor) else given.transpose(2, 0, 1)
    shown = np.asarray(load_picture(given))
    # bfloat16 has steps of 1/256
    assert np.abs(shown - expected).max() <= (1.6 if scale == "bfloat16" else 1)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((8, 8, 2)), r"an array .*shape is \[8, 8, 2\]; it must be \[H, W\]"),
        (np.zeros((2, 8, 8, 3)), r"shape is \[2, 8, 8, 3\]"),
        (np.zeros(8), r"shape is \[8\]"),
        (np.zeros((0, 8, 3)), r"shape is \[0, 8, 3\]"),
        (np.zeros((8, 8), complex), r"dtype is complex128"),
        (np.zeros((8, 8), object), r"dtype is object"),
        (np.zeros((3, 90)), r"90 x 3 pixels; a picture needs at least 4 x 4"),
        (np.broadcast_to(np.uint8(0), (20_000, 20_000)), r"20000 x 20000 pixels; at most 64,000,000"),
        (np.broadcast_to(np.uint8(0), (9_000, 9_000)), r"9000 x 9000 pixels; at most 64,000,000"),
        (None, r"is a NoneType; give a file, its bytes"),
        (7, r"is a int; give a file"),
    ],
    ids=range(11),
)
def test_what_is_no_picture_is_refused(array, said):
    with pytest.raises(PictureError, match=said):
        load_picture(array)


# EXIF's own words: which side of the picture the first stored row, and the first stored column, is
EXIF = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
SEEN = quarters([(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]).astype(np.uint8).repeat(2, axis=1)


def stored(seen, orientation):
    """The pixels that a camera with this orientation writes."""
    row, column = EXIF[orientation]
    if row in ("left", "right"):
        seen = seen.swapaxes(0, 1)
    seen = seen[::-1] if row in ("bottom", "right") else seen
    return seen[:, ::-1] if column in ("bottom", "right") else seen


def turned(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return Image.fromarray(np.ascontiguousarray(stored(SEEN, orientation))), exif


@pytest.mark.parametrize("orientation", EXIF)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "MPO", "AVIF"])
def test_pictures_stand_upright(form, orientation):
    picture, exif = turned(orientation)
    content = saved(picture, form, exif=exif, **({} if form in ("PNG", "TIFF") else {"quality": 100}))
    # as it lies in the file, as Pillow gives it to a user, and what a user made of it by keeping the tag
    opened = Image.open(io.BytesIO(content))
    for given in (content, opened, load_picture(content), np.asarray(load_picture(content))):
        shown = np.asarray(load_picture(given)).astype(int)
        assert shown.shape == SEEN.shape
        # in the middle of the quarters
        assert np.abs(shown - SEEN)[4::8][:, 8::16].max() <= 12


def test_a_picture_turned_by_its_user_is_not_turned_again():
    picture, exif = turned(6)
    opened = Image.open(io.BytesIO(saved(picture, "PNG", exif=exif)))
    resized = opened.resize(opened.size)
    assert np.array_equal(np.asarray(load_picture(resized)), SEEN)
    assert np.array_equal(np.asarray(load_picture(load_picture(resized))), SEEN)


@pytest.mark.parametrize("orientation", [0, 9, 60000, -1])
def test_an_orientation_that_is_none_turns_nothing(orientation):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x08\0\0\0\x01" + struct.pack(">hxx", orientation % 2**15) + bytes(4)
    assert np.array_equal(np.asarray(load_picture(saved(Image.fromarray(SEEN), "PNG", exif=exif))), SEEN)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"junk", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"])
def test_tags_that_are_broken_break_no_picture(exif):
    shown = load_picture(saved(Image.fromarray(SEEN), "JPEG", exif=exif, quality=100))
    assert shown.size == (2 * SIDE, SIDE)


def png(bits, kind, rows, *chunks):
    """A PNG by the book; ``kind``: 0 grey, 2 RGB, 3 palette, 4 grey and alpha."""

    def framed(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    width = len(rows[0]) * 8 // (bits * {0: 1, 2: 3, 3: 1, 4: 2}[kind])
    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed(*part) for part in parts)


KEYED = {
    "1 bit": (png(1, 0, [b"\x0f"] * 8, (b"tRNS", b"\0\0")), [255] * 4 + [255] * 4),
    "2 bits": (png(2, 0, [b"\x1b\x1b"] * 8, (b"tRNS", b"\0\1")), [0, 255, 170, 255] * 2),
    "4 bits": (png(4, 0, [b"\x01\x23\x45\x67"] * 8, (b"tRNS", b"\0\0")), [255, 17, 34, 51, 68, 85, 102, 119]),
    "8 bits": (png(8, 0, [bytes(range(8))] * 8, (b"tRNS", b"\0\2")), [0, 1, 255, 3, 4, 5, 6, 7]),
    # the key is compared in all its bits
    "16 bits": (png(16, 0, [struct.pack(">8H", 514, 515, *[0] * 6)] * 8, (b"tRNS", b"\2\2")), [255, 2, *[0] * 6]),
    "RGB": (png(8, 2, [bytes([5, 5, 5, 9, 9, 9] * 4)] * 8, (b"tRNS", b"\0\5" * 3)), [255, 9] * 4),
    "RGB of 16 bits": (png(16, 2, [bytes([5, 5] * 3 + [9, 9] * 3) * 4] * 8, (b"tRNS", b"\5\5" * 3)), [255, 9] * 4),
    "palette": (
        png(8, 3, [bytes([0, 1, 2, 3] * 2)] * 8, (b"PLTE", bytes([0] * 9 + [9] * 3)), (b"tRNS", bytes([255, 0, 128]))),
        [0, 255, 127, 9] * 2,
    ),
    "alpha of 16 bits": (png(16, 4, [struct.pack(">16H", *[0, 65535, 0, 0] * 4)] * 8), [0, 255] * 4),
}


@pytest.mark.parametrize("name", KEYED)
def test_a_transparent_colour_is_white(name):
    content, expected = KEYED[name]
    shown = np.asarray(load_picture(content))
    assert shown.shape == (8, 8, 3)
    assert (shown == np.array(expected)[None, :, None]).all()


def test_a_black_drawing_on_nothing_is_seen(tmp_path):
    drawing = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    drawing.paste((0, 0, 0, 255), (8, 8, 24, 24))
    for form in ("PNG", "WEBP", "GIF", "TIFF", "ICO"):
        drawing.save(tmp_path / "drawing", form)
        shown = load_picture(tmp_path / "drawing").resize((32, 32))
        assert (shown.getpixel((1, 1)), shown.getpixel((16, 16))) == ((255, 255, 255), (0, 0, 0))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_an_animation_gives_its_first_frame_and_says_so(tmp_path, form):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    path = tmp_path / f"moving.{form.lower()}"
    path.write_bytes(saved(frames[0], form, save_all=True, append_images=frames[1:]))
    with pytest.warns(FirstFrameWarning, match=rf"moving\.{form.lower()} has several frames; the first is taken"):
        shown = load_picture(path)
    assert np.abs(np.subtract(shown.getpixel((8, 8)), (255, 0, 0))).max() <= 6
    with warnings.catch_warnings():
        warnings.simplefilter("error", FirstFrameWarning)
        load_picture(path)
        # a frame that a user has chosen is the one that is meant
        path = path.rename(tmp_path / "chosen")
        with Image.open(path) as opened:
            opened.seek(1)
            chosen = load_picture(opened)
    assert np.abs(np.subtract(chosen.getpixel((8, 8)), (0, 0, 255))).max() <= 6


def exchanged(red, blue):
    """The profile of a screen whose primaries are sRGB's in another order."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(red, b"????").replace(blue, red).replace(b"????", blue)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_colours_are_those_of_the_pictures_profile(form):
    picture = Image.new("RGB", (16, 16), (200, 100, 10))
    options = {} if form in ("PNG", "TIFF") else {"quality": 100}
    content = saved(picture, form, icc_profile=exchanged(b"rXYZ", b"bXYZ"), **options)
    assert np.abs(np.subtract(load_picture(content).getpixel((8, 8)), (10, 100, 200))).max() <= 4
    assert load_picture(load_picture(content)).tobytes() == load_picture(content).tobytes()
    for profile in (exchanged(b"rXYZ", b"rXYZ"), b"no profile", exchanged(b"rXYZ", b"bXYZ")[:300]):
        content = saved(picture, form, icc_profile=profile, **options)
        with Image.open(io.BytesIO(content)) as opened:
            assert load_picture(content).tobytes() == opened.convert("RGB").tobytes()


def test_a_profile_of_other_colours_than_the_pictures_is_ignored():
    content = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "TIFF", icc_profile=exchanged(b"rXYZ", b"bXYZ"))
    assert load_picture(content).getpixel((8, 8)) == (255, 0, 0)
    transparent = saved(Image.new("RGBA", (16, 16), (200, 100, 10, 0)), "PNG", icc_profile=exchanged(b"rXYZ", b"bXYZ"))
    assert load_picture(transparent).getpixel((8, 8)) == (255, 255, 255)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [(os.mkfifo, "FIFO"), (os.mkdir, "directory"), (a_socket, "socket"), (lambda path: path.symlink_to("/dev/zero"), "device")],
    ids=["fifo", "directory", "socket", "device"],
)
def test_what_is_no_regular_file_is_refused_by_name(tmp_path, monkeypatch, make, kind):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "odd.png")
    for given in (tmp_path / "odd.png", str(tmp_path / "odd.png")):
        with pytest.raises(PictureError, match=rf"odd\.png cannot be read as a picture: it is a {kind}, no regular file"):
            load_picture(given)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def no_programs(monkeypatch):
    """Whatever would start another program fails."""

    def refuse(*command, **_):
        raise AssertionError(f"{command} was started")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)


def test_no_other_program_draws_a_picture(tmp_path, no_programs):
    (tmp_path / "cat.jpg").write_bytes(EPS)
    binary = b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, len(EPS)) + bytes(18) + EPS
    text = base64.b64encode(EPS).decode()
    given = [
        tmp_path / "cat.jpg",
        str(tmp_path / "cat.jpg"),
        EPS,
        bytearray(EPS),
        binary,
        text,
        f"data:image/eps;base64,{text}",
    ]
    for source in [*given, Image.open(io.BytesIO(EPS)), Image.open(tmp_path / "cat.jpg")]:
        with pytest.raises(PictureError, match=r"it is EPS, which takes another program to draw.*save it as PNG"):
            load_picture(source)
    with pytest.raises(PictureError, match=r"cat\.jpg .* it is EPS"):
        stored_size(tmp_path / "cat.jpg")


@pytest.mark.parametrize("content", [b"no picture", b"", b"\x89PNG\r\n\x1a\n", b"BM" + bytes(60)])
@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda content: base64.b64encode(content * 60).decode()])
def test_errors_name_no_place_in_memory(content, wrap):
    with pytest.raises(PictureError, match="cannot be read as a picture") as caught:
        load_picture(wrap(content or b"x"))
    assert " at 0x" not in str(caught.value)
    assert "BytesIO" not in str(caught.value)


RED = saved(Image.new("RGB", (16, 16), "red"), "PNG")


@pytest.mark.parametrize(
    "text",
    [
        f"data:image/png;base64,{base64.b64encode(RED).decode()}",
        base64.b64encode(RED).decode(),
        base64.encodebytes(RED).decode(),
    ],
    ids=["data", "base64", "lines"],
)
def test_text_holds_a_picture_as_transformers_takes_it(text):
    assert load_picture(text).getpixel((8, 8)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cats", r"cats cannot be read.*No such file"),
        ("pictures/missing.png", r"pictures/missing\.png cannot be read.*No such file"),
        ("nul\0.png", r"cannot be read"),
        ("data:image/png;base64,@@", r"no URL of the form data:image"),
        ("data:,hello", r"no URL of the form data:image"),
        ("A" * 200, r"base64 text AAAA.* cannot be read as a picture"),
        ("http://127.0.0.1:1/cat.png", r"http://127\.0\.0\.1:1/cat\.png cannot be fetched"),
    ],
)
def test_text_that_leads_nowhere_is_named(text, said):
    with pytest.raises(PictureError, match=said):
        load_picture(text)


@contextmanager
def served(answers):
    """Its address, and the paths that were asked for: ``answers`` are (status, headers, content) by path."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, headers, content = answers.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_picture_is_fetched():
    drawing = saved(Image.new("RGBA", (16, 16), (0, 0, 0, 0)), "PNG")
    with served({"/drawing": (200, {}, drawing), "/moved": (302, {"Location": "/drawing"}, b"")}) as (address, _):
        for path in ("drawing", "moved"):
            assert load_picture(f"{address}/{path}").getpixel((8, 8)) == (255, 255, 255)
        with pytest.raises(PictureError, match=r"/other cannot be fetched: .*404"):
            load_picture(f"{address}/other")


def test_a_redirect_leads_to_no_file_and_into_no_private_network(tmp_path, monkeypatch):
    (tmp_path / "cat.png").write_bytes(saved(Image.new("RGB", (16, 16)), "PNG"))
    moved = {
        f"/{number}": (302, {"Location": place}, b"")
        for number, place in enumerate((f"file://{tmp_path}/cat.png", "ftp://127.0.0.1/cat.png"))
    }
    with served(moved) as (address, _):
        for path in moved:
            with pytest.raises(PictureError, match="cannot be fetched: "):
                load_picture(address + path)
    # a server of the public network, played by a proxy
    inside = {"/secret.png": (200, {}, saved(Image.new("RGB", (16, 16)), "PNG"))}
    with served(inside) as (address, asked):
        public = {"http://8.8.8.8/cat.png": (302, {"Location": f"{address}/secret.png"}, b"")}
        with served(public) as (proxy, passed):
            monkeypatch.setenv("http_proxy", proxy)
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            with pytest.raises(PictureError, match=r"redirects to http://127\.0\.0\.1:.*, where nothing is fetched"):
                load_picture("http://8.8.8.8/cat.png")
            assert (passed, asked) == (["http://8.8.8.8/cat.png"], [])


def ico(inner):
    """An ICO that says of its picture that it has 32 x 32 pixels."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 32, 32, 0, 0, 1, 32, len(inner), 22) + inner


def png(width, height, *chunks):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(bytes(16))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )


def tiff_of_one_tile(side, tile):
    """A TIFF in one tile that is as large as it says, and takes nothing to store."""
    tags = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (277, 1), (322, tile), (323, tile), (324, 200), (325, 256)]
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + bytes(4)).ljust(456, b"\0")


def scans(number):
    """A progressive JPEG whose last scan stands there again and again."""
    content = saved(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * number + content[-2:]


UNPACKED = zlib.compress(bytes(2**26), 9)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (ico(png(10_000, 9_000)), "holds 90,000,000 pixels; at most 64,000,000"),
        (ico(png(30_000, 30_000)), "holds 900,000,000 pixels; at most 64,000,000"),
        (png(30_000, 30_000), "holds 900,000,000 pixels; at most 64,000,000"),
        (png(8, 8, (b"zTXt", b"k\0\0" + UNPACKED)), "too large"),
        (png(8, 8, (b"iTXt", b"k\0\1\0\0\0" + UNPACKED)), "too large"),
        (png(8, 8, (b"iCCP", b"k\0\0" + UNPACKED)), "too large"),
        (tiff_of_one_tile(64, 20_000), "has tiles of 20000 x 20000 pixels"),
        (scans(200), "scans; at most 64 are read"),
        (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30_000, 30_000, 8, 3) + bytes(40), "900,000,000 pixels"),
    ],
    ids=["ico", "large ico", "png", "zTXt", "iTXt", "iCCP", "tile", "scans", "psd"],
)
def test_what_would_unpack_to_far_more_is_refused_before_it_does(tmp_path, content, said):
    (tmp_path / "file").write_bytes(content)
    for source in (content, tmp_path / "file"):
        tracemalloc.start()
        try:
            with pytest.raises(PictureError, match=said):
                load_picture(source)
            assert tracemalloc.get_traced_memory()[1] < 2**24
        finally:
            tracemalloc.stop()


def test_files_that_are_larger_than_any_picture_are_not_read(tmp_path):
    with open(tmp_path / "file.png", "wb") as file:
        file.truncate(2**40)
    for read in (load_picture, stored_size):
        with pytest.raises(PictureError, match=r"file\.png has 1,099,511,627,776 bytes; at most 536,870,912 are read"):
            read(tmp_path / "file.png")


def test_what_is_written_a_little_oddly_is_read():
    assert load_picture(scans(20)).size == (64, 64)
    assert load_picture(tiff_of_one_tile(8, 16)).size == (8, 8)


def test_what_stands_behind_a_picture_is_none_of_its_scans():
    """A telephone's photograph has its video behind it; a camera's has a thumbnail in its head."""
    held = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(held, "JPEG", progressive=True)
    whole = held.getvalue()
    assert load_picture(whole + b"\xff\xda" * 5000).size == (64, 48)
    thumbnail = b"\xff\xe1" + (2 + 400).to_bytes(2, "big") + b"\xff\xda" * 200
    assert load_picture(whole[:2] + thumbnail + whole[2:]).size == (64, 48)
