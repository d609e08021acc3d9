"""Pixels of any kind as a viewer shows them: 8-bit sRGB, upright, what is transparent on white."""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

# what EXIF calls orientation: how the stored pixels are turned to stand upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# of these, those that make width of height
QUARTERS = (5, 6, 7, 8)
_ORIENTATION = 274
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLES = 258, 262, 339
# what Pillow's readers raise for files that are broken, some of them for those of their tags alone
BROKEN = (OSError, SyntaxError, ValueError, LookupError, ArithmeticError, TypeError, RuntimeError, EOFError, struct.error)

_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_MAY_HAVE_KEY = ("1", "L", "P", "RGB")
# Pillow compares the key with pixels of 8 bits, and a PNG gives it in its own depth
_KEY_TO_8_BITS = {"L;2": lambda level: level * 85, "L;4": lambda level: level * 17, "RGB;16B": lambda level: level >> 8}
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_CHANNELS = (1, 3, 4)
_GREY = ("1", "L", "LA", "La", "I", "F")


def orientation(picture: Image.Image) -> int:
    """How a picture's pixels are turned, 1 (upright) to 8, as EXIF or XMP says; 1 where they say nothing that can be read.

    A TIFF's are turned by Pillow as they are decoded; before that its tag is still there.
    """
    try:
        value = picture.getexif().get(_ORIENTATION)
    except BROKEN:
        return 1
    return value if isinstance(value, int) and value in UPRIGHT else 1


def as_shown(picture: Image.Image) -> Image.Image:
    """The RGB picture that a viewer shows.

    Upright by its EXIF orientation, in sRGB where it has a profile of its own, transparent pixels on white, the first frame of
    several. Greys of 16 bits use their full range. Greys of 32 bits and floats are taken for 0...1 (floats alone), 0...255 or
    0...65535, the first of these that holds them all, and otherwise from their lowest to their highest value; NaN is black.

    Raises:
        OSError, ValueError, ...: one of Pillow's errors for what cannot be decoded.
    """
    if type(picture) is Image.Image and picture.mode == "RGB" and not picture.info and orientation(picture) == 1:
        return picture
    raw_mode = _raw_mode(picture)
    picture.load()
    colours, alpha = _colours_and_alpha(picture, raw_mode)
    colours = _in_srgb(colours, picture).convert("RGB")
    if alpha is not None:
        white = Image.new("RGB", colours.size, "white")
        white.paste(colours, mask=alpha)
        colours = white
    turn = UPRIGHT.get(orientation(picture))
    shown = colours if turn is None else colours.transpose(turn)
    # what it says has been done
    shown.info = {}
    return shown


def channels_last(array: np.ndarray) -> np.ndarray:
    """An array's pixels as ``[H, W, C]`` with 1 (grey), 3 (RGB) or 4 (RGBA) channels.

    Args:
        array: ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]``; a shape that reads both ways is ``[H, W, C]``.

    Raises:
        ValueError: for another shape, or a dtype that is neither bool nor an integer or a float.
    """
    if array.dtype.kind not in "buif":
        raise ValueError(f"its dtype is {array.dtype}; it must be bool, an integer or a float.")
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim == 3 and pixels.shape[2] not in _CHANNELS and pixels.shape[0] in _CHANNELS:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] not in _CHANNELS or 0 in pixels.shape:
        raise ValueError(f"its shape is {list(array.shape)}; it must be [H, W], [H, W, C] or [C, H, W] with C 1, 3 or 4.")
    return pixels


def from_array(pixels: np.ndarray) -> Image.Image:
    """The RGB picture in an array of :func:`channels_last`.

    bool, 8 and 16 bits without a sign use their full range; other numbers are scaled as in :func:`as_shown`, colours and alpha
    apart.
    """
    levels = _to_8_bits(pixels[..., :3])
    if pixels.shape[2] == 4:
        levels = np.concatenate((levels, _to_8_bits(pixels[..., 3:])), axis=2)
    return as_shown(Image.fromarray(np.ascontiguousarray(levels[..., 0] if levels.shape[2] == 1 else levels)))


def _raw_mode(picture: Image.Image) -> str:
    """How the pixels lie in the file; empty where that is not known."""
    tiles = getattr(picture, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _colours_and_alpha(picture: Image.Image, raw_mode: str) -> tuple[Image.Image, Image.Image | None]:
    """Pixels without transparency, of a mode that becomes RGB by itself, and how opaque they are (None: all of them)."""
    key = picture.info.get("transparency")
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = _grey_values(picture)
        levels = _to_8_bits(values, _highest(picture))
        tags: Any = getattr(picture, "tag_v2", {})
        if tags.get(_TIFF_PHOTOMETRIC) == 0:
            levels = 255 - levels
        alpha = Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)) if isinstance(key, int) else None
        return Image.fromarray(levels), alpha
    keyed = picture.mode in _MAY_HAVE_KEY and picture.has_transparency_data
    if not keyed and picture.mode not in _WITH_ALPHA:
        return picture, None
    if picture.mode == "La":
        picture = picture.convert("LA")
    if keyed and raw_mode in _KEY_TO_8_BITS:
        picture = picture.copy()
        scale, levels = _KEY_TO_8_BITS[raw_mode], picture.info["transparency"]
        picture.info["transparency"] = scale(levels) if isinstance(levels, int) else tuple(map(scale, levels))
    both = picture.convert("RGBA")
    return both.convert("RGB"), both.getchannel("A")


def _grey_values(picture: Image.Image) -> np.ndarray:
    values = np.asarray(picture)
    tags: Any = getattr(picture, "tag_v2", {})
    # Pillow keeps a TIFF's unsigned numbers in signed ones
    unsigned = tags.get(_TIFF_BITS) == (32,) and tags.get(_TIFF_SAMPLES, (1,)) == (1,)
    return values.view(np.uint32) if picture.mode == "I" and unsigned else values


def _highest(picture: Image.Image) -> int:
    """White of a grey picture of 16 bits; a TIFF may use fewer of them."""
    tags: Any = getattr(picture, "tag_v2", {})
    bits = tags.get(_TIFF_BITS, (16,))[0]
    return 2**bits - 1 if 8 < bits < 16 else 65535


def _to_8_bits(values: np.ndarray, highest: int = 65535) -> np.ndarray:
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "b":
        return values * np.uint8(255)
    if (kind, size) == ("u", 1):
        return values
    if (kind, size) == ("u", 2):
        return ((values.astype(np.uint32) * 255 + highest // 2) // highest).clip(max=255).astype(np.uint8)
    numbers = values.astype(np.float64)
    known = np.isfinite(numbers)
    if not known.any():
        raise ValueError("it holds no number.")
    low, high = numbers.min(where=known, initial=np.inf), numbers.max(where=known, initial=-np.inf)
    full = (1.0, 255.0, 65535.0) if kind == "f" else (255.0, 65535.0)
    low, high = next(((0.0, top) for top in full if low >= 0 and high <= top), (low, high))
    numbers = np.nan_to_num(numbers, copy=False, nan=low, posinf=high, neginf=low)
    # halves: the span of two large numbers is larger than any number
    span = high / 2 - low / 2
    numbers = (numbers / 2 - low / 2) / span * 255 if span > 0 else np.zeros_like(numbers)
    return np.rint(numbers).astype(np.uint8)


def _in_srgb(colours: Image.Image, picture: Image.Image) -> Image.Image:
    """The colours by the picture's own profile, as viewers show them; where that is none that fits, as they are.

    Cameras write wide gamuts, which look pale without it, and printers inks, which look garish.
    """
    profile, mode = picture.info.get("icc_profile"), picture.mode
    if not isinstance(profile, bytes) or mode == "LAB":
        return colours
    space = "CMYK" if mode == "CMYK" else "GRAY" if mode in _GREY or mode.startswith("I;16") else "RGB"
    try:
        transform = _to_srgb(profile, space) or (_to_srgb(profile, "RGB") if space == "GRAY" else None)
        return colours if transform is None else transform.apply(colours.convert(transform.input_mode))
    except (ImageCms.PyCMSError, *BROKEN):
        return colours


# a folder's pictures come from few cameras
@lru_cache(maxsize=64)
def _to_srgb(profile: bytes, space: str) -> Any:
    """The transform from pixels of "RGB", "GRAY" or "CMYK"; None for a profile of others, a broken one, and sRGB's own."""
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if own.profile.xcolor_space.strip() != space:
            return None
        srgb: Any = ImageCms.createProfile("sRGB")
        transform: Any = ImageCms.buildTransform(own, srgb, _MODES[space], "RGB")
        if space == "RGB":
            levels = np.arange(0, 256, 15, dtype=np.uint8)
            colours = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, len(levels), 3))
            if transform.apply(colours).tobytes() == colours.tobytes():
                return None
    except (ImageCms.PyCMSError, ImportError, *BROKEN):
        return None
    return transform
