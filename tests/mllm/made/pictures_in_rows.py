"""Pictures as rows hold them."""

import io

from PIL import Image


def encoded(picture):
    """The bytes of its PNG file."""
    held = io.BytesIO()
    picture.save(held, "png")
    return held.getvalue()


def png(colour, size=(8, 6)):
    return encoded(Image.new("RGB", size, colour))


def colour(opens, size=(8, 6)):
    """Of what opens."""
    picture = opens()
    assert (picture.mode, picture.size) == ("RGB", size)
    return picture.getpixel((0, 0))
