"""What corpora say is where: held against the pixels of the pictures that they give."""

import json

import numpy as np
import pytest
from PIL import Image

from pargo_mllm.data.corpus import OtherShape
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.regions import label_coverage
from pargo_mllm.data.scenes.layout import CELL, CELLS, COLOURS, scene_layout
from pargo_mllm.data.sources.region_file import RegionFile
from tests.mllm.made.photographs import CATEGORIES, write_photographs


def test_a_colour_of_a_scene_is_said_of_the_cells_that_show_it():
    corpus, whole = open_corpus("scenes:seed=2,train=24", 1), 0
    for index in range(len(corpus)):
        example, scene = corpus[index], scene_layout("train", 2, index)
        covered = label_coverage(example.regions[0](), (CELLS, CELLS))
        if scene.big is None:
            assert set(covered) == {scene.photo[0]}
            assert (covered[scene.photo[0]] == 1).all()
            whole += 1
            continue
        pixels = np.asarray(example.pictures[0](), float).reshape(CELLS, CELL, CELLS, CELL, 3).swapaxes(1, 2)
        is_photograph = covered[scene.photo[0]] == 1
        assert is_photograph.sum() == 9
        for name, colour in COLOURS.items():
            shown = (np.abs(pixels - colour).max(axis=-1) < 35).sum(axis=(2, 3)) >= 12
            said = covered.get(name, np.zeros((CELLS, CELLS)))
            # all that shows the colour; the corners of a big circle may show little of it
            assert set(np.unique(said)) <= {0, 1}
            assert not (shown & ~is_photograph & (said == 0)).any()
            for item in scene.items:
                assert shown[item.place()] or item.colour != name
        things = {(item.what, item.place()) for item in scene.items}
        assert {what for what, _ in things} <= set(covered)
        assert all(covered[what][place] == 1 for what, place in things)
    assert 0 < whole < 12


def test_boxes_of_a_folder_lie_on_what_each_view_shows(tmp_path):
    corpus = open_corpus(write_photographs(tmp_path, 12), 1, views=60, seed=1)
    mirrored = parts = compared = 0
    for index in range(len(corpus)):
        example = corpus[index]
        regions = example.regions[0]()
        mirrored += any(region.window[0] > region.window[2] for region in regions)
        parts += any(abs(region.window[2] - region.window[0]) < 0.95 for region in regions)
        try:
            pixels = np.asarray(example.pictures[0](), float)
        except ValueError:
            continue
        covered = label_coverage(regions, pixels.shape[:2])
        for channel, name in enumerate(CATEGORIES):
            shown = (pixels[..., channel] > 140) & (np.delete(pixels, channel, axis=2).max(axis=2) < 120)
            said = covered.get(name, np.zeros(shown.shape)) > 0.5
            # views begin at whole pixels, and JPEG spreads a border: a frame of two pixels at most
            assert (shown ^ said).sum() <= 2 * 4 * 31
            if shown.sum() > 80:
                assert (shown & said).sum() / (shown | said).sum() > 0.7
                compared += 1
    assert mirrored > 5
    assert parts > 20
    assert compared > 60


@pytest.mark.parametrize("turn", [1, 5, 6, 7, 8])
def test_boxes_of_stored_pixels_are_said_of_the_upright_picture(tmp_path, turn):
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[4:16, 8:38] = 255, 0, 0
    exif = Image.Exif()
    exif[274] = turn
    (tmp_path / "images").mkdir()
    images = [{"id": number, "file_name": f"{number}.png", "width": 96, "height": 64} for number in range(5)]
    for row in images:
        Image.fromarray(pixels).save(tmp_path / "images" / row["file_name"], exif=exif)
    captions = [{"image_id": row["id"], "caption": "a cat"} for row in images]
    objects = [{"image_id": row["id"], "category_id": 3, "bbox": [8, 4, 30, 12]} for row in images]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    (tmp_path / "instances.json").write_text(json.dumps({"annotations": objects, "categories": [{"id": 3, "name": "cat"}]}))
    example = open_corpus(tmp_path, 1)[0]
    shown = np.asarray(example.pictures[0]())[..., 0] > 128
    (region,) = example.regions[0]()
    assert np.allclose(region.coverage(shown.shape), shown, atol=1e-9)


def called(corpus):
    """What all that its examples say is called."""
    return {region.names[0] for index in range(len(corpus)) for region in corpus[index].regions[0]()}


def test_the_names_that_a_corpus_knows_are_those_that_its_pictures_have(tmp_path):
    scenes = open_corpus("scenes:seed=2,train=120", 1)
    assert set(scenes.region_names()) == called(scenes)
    # of both sides of the split
    sides = [open_corpus(write_photographs(tmp_path / side, 12), 1, side) for side in ("train", "test")]
    assert {side.region_names() for side in sides} == {tuple(sorted(called(sides[0]) | called(sides[1])))}
    file = tmp_path / "regions.jsonl"
    region = {"labels": [["lid", "cover"]], "box": [0, 0, 120, 90]}
    lines = [{"image": f"{number}.jpg", "size": [120, 90], "regions": [region]} for number in range(12)]
    file.write_text("\n".join(map(json.dumps, lines)))
    corpus = open_corpus(tmp_path / "train", 1, regions=RegionFile(file))
    assert corpus.region_names() == tuple(called(corpus)) == ("lid",)


def test_nobody_says_what_is_where_without_instances(tmp_path):
    corpus = open_corpus(write_photographs(tmp_path, instances=False), 1)
    assert corpus[0].regions is None


def test_boxes_of_a_picture_of_another_shape_are_not_used(tmp_path):
    """Numbers of a square on a picture of 120 x 90; those of a picture half as large lie where they lay."""
    folder = write_photographs(tmp_path / "data", count=10)
    told = json.loads((folder / "instances.json").read_text())

    def regions(sides):
        for image in told["images"]:
            image["width"], image["height"] = sides
        (folder / "instances.json").write_text(json.dumps(told))
        corpus = open_corpus(folder, 1)
        return [corpus[index].regions[0] for index in range(len(corpus)) if not corpus.name(index).startswith("3.jpg")]

    shown = [len(one()) for one in regions((60, 45))]
    assert any(shown)
    for count, one in zip(shown, regions((90, 90)), strict=True):
        if count:
            with pytest.raises(OtherShape, match="jpg has 90 x 90 pixels, and it has 120 x 90"):
                one()
