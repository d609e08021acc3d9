"""Masks of the things in a generated scene: shapes and glyphs as float pictures in 0...1, drawn once and kept."""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SHAPES = ("circle", "square", "triangle", "cross", "ring")
_OVERSAMPLE = 4


@functools.cache
def shape_mask(shape: str, side: int) -> np.ndarray:
    """Anti-aliased mask of one of :data:`SHAPES`, float32 ``[side, side]``."""
    n = side * _OVERSAMPLE
    picture = Image.new("L", (n, n))
    draw = ImageDraw.Draw(picture)
    if shape == "circle":
        draw.ellipse((0, 0, n - 1, n - 1), fill=255)
    elif shape == "square":
        draw.rectangle((n // 12, n // 12, n - 1 - n // 12, n - 1 - n // 12), fill=255)
    elif shape == "triangle":
        draw.polygon(((n / 2, 0), (n - 1, n - 1), (0, n - 1)), fill=255)
    elif shape == "cross":
        third = n // 3
        draw.rectangle((third, 0, n - 1 - third, n - 1), fill=255)
        draw.rectangle((0, third, n - 1, n - 1 - third), fill=255)
    elif shape == "ring":
        draw.ellipse((0, 0, n - 1, n - 1), fill=255)
        draw.ellipse((n * 0.28, n * 0.28, n * 0.72, n * 0.72), fill=0)
    else:
        raise ValueError(f"shape={shape!r} is unknown; it must be one of {', '.join(SHAPES)}.")
    return _to_float(picture.resize((side, side), Image.Resampling.BOX))


@functools.cache
def glyph_mask(character: str, side: int) -> np.ndarray:
    """Mask of one character, centred and as tall as the cell allows, float32 ``[side, side]``."""
    font = ImageFont.load_default(size=side * _OVERSAMPLE * 1.15)
    left, top, right, bottom = font.getbbox(character)
    n = side * _OVERSAMPLE
    picture = Image.new("L", (n, n))
    origin = ((n - (right - left)) / 2 - left, (n - (bottom - top)) / 2 - top)
    ImageDraw.Draw(picture).text(origin, character, font=font, fill=255, stroke_width=2, stroke_fill=255)
    return _to_float(picture.resize((side, side), Image.Resampling.BOX))


@functools.cache
def stripes(side: int, period: int, angle: int) -> np.ndarray:
    """Stripes of value 1 and 0.45 at ``angle`` degrees, float32 ``[side, side]``; ``period`` in pixels."""
    y, x = np.mgrid[0:side, 0:side]
    along = x * math.cos(math.radians(angle)) + y * math.sin(math.radians(angle))
    return np.where((along / period) % 1.0 < 0.5, 1.0, 0.45).astype(np.float32)


def paint(canvas: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], top: int, left: int, shade=1.0) -> None:
    """Blend ``colour`` (times ``shade``) into the float32 canvas ``[H, W, 3]`` where the mask is, in place."""
    height, width = mask.shape
    window = canvas[top : top + height, left : left + width]
    target = np.asarray(colour, dtype=np.float32) * np.broadcast_to(shade, mask.shape)[..., None]
    window += mask[..., None] * (target - window)


def _to_float(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.float32) / 255
