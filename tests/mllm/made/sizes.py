"""Sizes of the model that the fixtures make."""

SIDE, PATCH, WIDTH = 28, 7, 32
