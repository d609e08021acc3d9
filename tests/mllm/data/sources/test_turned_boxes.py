"""Boxes lie on the objects that the upright picture shows, whichever pixels a set's boxes refer to."""

import json

import numpy as np
import pytest
from PIL import Image

from pargo_mllm.data.pictures import load_picture
from pargo_mllm.data.sources.coco import read_coco_folder
from pargo_mllm.data.sources.object_questions import place

WIDTH, HEIGHT = 96, 64
BOX = [8, 4, 30, 12]


def write(root, orientation, box, size, form="png"):
    """A folder with one picture: on stored pixels of WIDTH x HEIGHT a red cat in BOX."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    left, top, width, height = BOX
    pixels[top : top + height, left : left + width] = 255, 0, 0
    exif = Image.Exif()
    exif[274] = orientation
    (root / "images").mkdir()
    Image.fromarray(pixels).save(root / "images" / f"a.{form}", exif=exif)
    image = {"id": 1, "file_name": f"a.{form}", "width": size[0], "height": size[1]}
    content = {"images": [image], "annotations": [{"image_id": 1, "caption": "a cat"}]}
    (root / "captions.json").write_text(json.dumps(content))
    objects = {"annotations": [{"image_id": 1, "category_id": 3, "bbox": box}], "categories": [{"id": 3, "name": "cat"}]}
    (root / "instances.json").write_text(json.dumps(objects))
    return read_coco_folder(root).images[0]


def seen(image):
    """The cat's box in the picture as it is loaded, from its pixels, in pixels; and the picture's width and height."""
    picture = load_picture(image.path)
    rows, columns = np.nonzero(np.asarray(picture)[..., 0] > 128)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], picture.size


def check(image):
    box, (width, height) = seen(image)
    (cat,) = image.objects
    assert cat.box == pytest.approx(np.array(box) / [width, height, width, height], abs=1e-9)


@pytest.mark.parametrize("form", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])
@pytest.mark.parametrize("scale", [1, 3])
def test_boxes_of_stored_pixels_turn_with_the_picture(tmp_path, form, orientation, scale):
    options = [scale * pixel for pixel in BOX], (scale * WIDTH, scale * HEIGHT)
    if form == "webp":
        # lossy: the cat's border is not kept to the pixel
        image = write(tmp_path, orientation, *options, form)
        box, (width, height) = seen(image)
        assert image.objects[0].box == pytest.approx(np.array(box) / [width, height, width, height], abs=0.04)
    else:
        check(write(tmp_path, orientation, *options, form))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_of_the_upright_picture_stay(tmp_path, orientation):
    (tmp_path / "once").mkdir()
    (left, top, right, bottom), size = seen(write(tmp_path / "once", orientation, BOX, (WIDTH, HEIGHT)))
    (tmp_path / "again").mkdir()
    check(write(tmp_path / "again", orientation, [int(n) for n in (left, top, right - left, bottom - top)], size))


def test_a_question_names_the_place_that_is_seen(tmp_path):
    # stored at the top left; turned by a quarter, clockwise, it is at the top right
    image = write(tmp_path, 6, BOX, (WIDTH, HEIGHT))
    assert place(image.objects[0]) == "top right"


def test_a_picture_that_cannot_be_read_keeps_its_boxes(tmp_path):
    image = write(tmp_path, 6, BOX, (WIDTH, HEIGHT))
    image.path.write_bytes(b"no picture")
    assert image.objects == image.annotated
    image.path.unlink()
    assert read_coco_folder(tmp_path).images[0].objects == image.annotated
