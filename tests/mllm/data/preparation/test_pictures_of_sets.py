"""Pictures as training shows them: boxes lie on what they describe, and what training refuses is no record."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pargo_mllm.data.frames import convert, read_box
from pargo_mllm.data.pictures import load_picture
from pargo_mllm.data.preparation.data_set import COARSE, DataSet, Options
from pargo_mllm.data.preparation.entries import Entry, Picture, turns
from pargo_mllm.data.preparation.run import Form, prepare
from pargo_mllm.data.preparation.sets import find
from pargo_mllm.jobs import engine_of
from tests.mllm.made.photographs import noise_picture

WIDTH, HEIGHT = 96, 64
# red, in the stored pixels
LEFT, TOP, RIGHT, BOTTOM = 8, 4, 38, 16


def made(source, out, data_set, form=None):
    return prepare(data_set, source, out, Options(), form or Form(), engine_of("local", 1))


def listed(entries):
    return DataSet("listed", "Listed", COARSE, "", (), "", "", lambda files, options: iter(entries))


def turned(file, orientation):
    """A file with a red box whose pixels EXIF turns; (the box as a viewer shows it, width and height as shown)."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[TOP:BOTTOM, LEFT:RIGHT] = 255, 0, 0
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    shown = load_picture(file)
    rows, columns = np.nonzero(np.asarray(shown)[..., 0] > 128)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1], shown.size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("told", ["stored", "upright"])
def test_a_box_lies_on_what_it_describes_or_is_counted(told, orientation, tmp_path):
    source = tmp_path / "source"
    (source / "train2014").mkdir(parents=True)
    box, size = turned(source / "train2014" / "a.jpg", orientation)
    (x1, y1, x2, y2), (width, height) = ([LEFT, TOP, RIGHT, BOTTOM], (WIDTH, HEIGHT)) if told == "stored" else (box, size)
    noise_picture(20, 20).save(source / "train2014" / "b.jpg")
    images = [
        {"id": 1, "file_name": "a.jpg", "width": width, "height": height, "caption": "red"},
        {"id": 2, "file_name": "b.jpg", "width": 20, "height": 20, "caption": "noise"},
    ]
    boxes = [{"image_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}, {"image_id": 2, "bbox": [2, 2, 9, 9]}]
    (source / "finetune_refcoco_train.json").write_text(json.dumps({"images": images, "annotations": boxes}))
    about = made(source, tmp_path / "out", find("refcoco"))
    records = {record["id"]: record for record in json.loads((tmp_path / "out" / "data.json").read_text())}
    if "1" not in records:
        # never one that lies for certain
        assert orientation != 1
        assert not (told == "upright" and orientation >= 5)
        assert list(about["skipped"].values()) == [1]
        assert "EXIF" in next(iter(about["skipped"]))
        return
    record = records["1"]
    assert (record["width"], record["height"]) == size
    found = read_box("\n".join(turn["value"] for turn in record["conversations"]))
    assert convert(found, "picture", "pixels", size) == pytest.approx(box, abs=0.2)


@pytest.mark.parametrize("told", [(WIDTH, HEIGHT), (HEIGHT, WIDTH), None])
def test_without_boxes_a_turned_picture_may_be_told_in_either_size(told, tmp_path):
    (tmp_path / "source").mkdir()
    turned(tmp_path / "source" / "a.png", 6)
    entry = Entry("1", Picture.file("a.png"), turns([("what?", "red")]), told)
    assert made(tmp_path / "source", tmp_path / "out", listed([entry]))["records"] == 1


@pytest.mark.parametrize("form", [Form(), Form(per_shard=5)], ids=["list", "shards"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp"])
def test_pictures_that_are_cut_are_counted_and_those_with_something_behind_are_not(suffix, form, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    content = BytesIO()
    noise_picture(80, 90).save(content, "JPEG" if suffix == "jpg" else suffix)
    whole = content.getvalue()
    for name, written in {"whole": whole, "more": whole + b"\0" * 9, "cut": whole[: len(whole) // 2]}.items():
        (source / f"{name}.{suffix}").write_bytes(written)
    entries = [Entry(name, Picture.file(f"{name}.{suffix}"), turns([("what?", name)])) for name in ("whole", "more", "cut")]
    about = made(source, tmp_path / "out", listed(entries), form)
    assert about["records"] == 2
    assert about["skipped"] == {"pictures that are missing or cannot be read": 1}
