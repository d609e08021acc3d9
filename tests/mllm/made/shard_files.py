"""Small shards for tests."""

import io

import numpy as np
from PIL import Image


def picture_bytes(number, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


PICTURE = picture_bytes(0)


def pairs(count, first=0):
    return [(f"{number:05d}", {"txt": f"caption {number}".encode(), "jpg": PICTURE}) for number in range(first, first + count)]


def names(corpus):
    return {corpus[number].name.split(": ")[1] for number in range(len(corpus))}
