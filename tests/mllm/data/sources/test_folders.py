"""Folders of photographs that strangers made: reading them, asking about them, surviving them."""

import json
import struct
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image

from pargo_mllm.data.pictures import PictureError, load_picture
from pargo_mllm.data.sources.coco import CocoObject, FolderError, read_coco_folder
from pargo_mllm.data.sources.object_questions import object_questions
from pargo_mllm.data.sources.photographs_folder import PhotographCorpus, PhotographFolder

IMAGE = {"id": 1, "file_name": "good.jpg", "width": 100, "height": 50}
CATEGORY = {"id": 3, "name": "cat"}
OBJECT = {"image_id": 1, "category_id": 3, "bbox": [10, 5, 20, 10]}


@pytest.fixture
def write(tmp_path):
    """Writes a folder with one good image, and whatever else the test puts beside it."""

    def make(images=(), captions=(), instances=None):
        (tmp_path / "images").mkdir(exist_ok=True)
        content = {"images": [IMAGE, *images], "annotations": [{"image_id": 1, "caption": " A  cat\n"}, *captions]}
        (tmp_path / "captions.json").write_text(json.dumps(content))
        if instances is not None:
            (tmp_path / "instances.json").write_text(json.dumps(instances))
        return tmp_path

    return make


def test_boxes_are_shares_of_the_picture_and_captions_are_one_line(write):
    folder = read_coco_folder(write(instances={"annotations": [OBJECT], "categories": [CATEGORY]}))
    (image,) = folder.images
    assert image.captions == ("A cat",)
    assert image.objects == (CocoObject("cat", (0.1, 0.1, 0.3, 0.3)),)
    assert image.objects[0].area == pytest.approx(0.04)
    assert folder.has_instances
    assert not folder.skipped


def test_a_box_that_sticks_out_is_cut_at_the_picture(write):
    wide = {**OBJECT, "bbox": [-50, 25, 1000, 1000]}
    folder = read_coco_folder(write(instances={"annotations": [wide], "categories": [CATEGORY]}))
    assert folder.images[0].objects[0].box == (0.0, 0.5, 1.0, 1.0)


@pytest.mark.parametrize(
    "name",
    [
        *("../captions.json", "/etc/passwd", "..", ".", "", "a/../../x.jpg", "sub/", "nul\0.jpg"),
        *("half\ud800.jpg", "byte\udc80.jpg", "n" * 300, "n/" * 3000 + "x.jpg"),
    ],
    ids=range(12),
)
def test_file_names_that_lead_elsewhere_are_skipped_and_counted(write, name):
    folder = read_coco_folder(write([{**IMAGE, "id": 2, "file_name": name}], [{"image_id": 2, "caption": "x"}]))
    assert [image.path.name for image in folder.images] == ["good.jpg"]
    assert folder.tallies["images"].skipped == {"file names that are none or lead out of images/": 1}
    assert folder.tallies["captions"].skipped == {"captions of images that are not used": 1}


def test_links_folders_and_the_other_spelling_of_accents_are_followed(tmp_path):
    """What people have: linked files, COCO's own subfolders, names that a Mac wrote."""
    (tmp_path / "far").mkdir()
    (tmp_path / "data" / "images" / "val2017").mkdir(parents=True)
    names = {1: "link.png", 2: "val2017/a.png", 3: "./b.png", 4: "linked/c.png", 5: unicodedata.normalize("NFC", "é.png")}
    places = {1: "far/x.png", 2: "data/images/val2017/a.png", 3: "data/images/b.png", 4: "far/c.png"}
    places[5] = unicodedata.normalize("NFD", "data/images/é.png")
    for number, place in places.items():
        Image.new("RGB", (8, 6), (50 * number, 0, 0)).save(tmp_path / place)
    (tmp_path / "data" / "images" / "link.png").symlink_to(tmp_path / "far" / "x.png")
    (tmp_path / "data" / "images" / "linked").symlink_to(tmp_path / "far")
    rows = [{"id": number, "file_name": name} for number, name in names.items()]
    captions = [{"image_id": number, "caption": f"thing {number}"} for number in names]
    (tmp_path / "data" / "captions.json").write_text(json.dumps({"images": rows, "annotations": captions}))
    folder = PhotographFolder(tmp_path / "data")
    corpora = [PhotographCorpus(folder, 1, split) for split in ("train", "test")]
    seen = {
        example.conversations[0][1]["content"][0]["text"]: example.pictures[0]().getpixel((0, 0))[0]
        for corpus in corpora
        for example in (corpus[index] for index in range(len(corpus)))
    }
    assert seen == {f"thing {number}": 50 * number for number in names}
    assert not folder.folder.skipped


def test_one_file_under_several_ids_is_on_one_side(tmp_path):
    (tmp_path / "images").mkdir()
    rows = [{"id": number, "file_name": f"{number % 10}.png"} for number in range(200)]
    captions = [{"image_id": number, "caption": "x"} for number in range(200)]
    (tmp_path / "captions.json").write_text(json.dumps({"images": rows, "annotations": captions}))
    train, test = ({image.name for image in PhotographFolder(tmp_path).photographs(split)} for split in ("train", "test"))
    assert (len(train), len(test), train & test) == (8, 2, set())


@pytest.mark.parametrize(
    ("images", "captions", "reason"),
    [
        ([7, None, "x", []], [], "malformed rows of images"),
        ([{"id": [1], "file_name": "b.jpg"}], [], "malformed rows of images"),
        ([{"id": 2, "file_name": 5}], [], "malformed rows of images"),
        ([{"file_name": "b.jpg"}], [], "malformed rows of images"),
        ([], [{"image_id": {"a": 1}, "caption": "x"}], "malformed rows of annotations"),
        ([], [{"image_id": 1, "caption": ["x"]}], "malformed rows of annotations"),
        ([], [{"image_id": 1, "caption": "  "}], "captions that are empty or of no listed image"),
        ([], [{"image_id": 99, "caption": "x"}], "captions that are empty or of no listed image"),
        ([{**IMAGE, "id": 2, "file_name": "b.jpg"}], [], "images without a caption"),
        ([{"id": True, "file_name": "b.jpg"}], [], "malformed rows of images"),
        ([IMAGE], [], "images that are listed again"),
        (
            [{**IMAGE, "id": 2, "file_name": "b.jpg"}, {**IMAGE, "id": 2, "file_name": "c.jpg"}],
            [],
            "images that have one id and differ",
        ),
        ([], [{"image_id": 1, "caption": "half \ud83d"}], "captions that hold half a character (a lone surrogate)"),
        ([], [{"image_id": 1, "caption": "... !"}], "captions without a word"),
    ],
)
def test_unusable_rows_are_skipped_and_counted(write, images, captions, reason):
    folder = read_coco_folder(write(images, captions))
    assert len(folder.images) == 1
    assert list(folder.skipped) == [reason]


@pytest.mark.parametrize(
    "change",
    [
        {"iscrowd": 1},
        {"bbox": [10, 5, 0, 10]},
        {"bbox": [10, 5, -3, 10]},
        {"bbox": [float("nan"), 5, 20, 10]},
        {"bbox": [10, 5, float("inf"), 10]},
        {"bbox": [10**400, 5, 20, 10]},
        {"bbox": [1, 2, 3]},
        {"bbox": ["a", 2, 3, 4]},
        {"bbox": "abcd"},
        {"bbox": None},
        {"category_id": 99},
        {"category_id": [3]},
        {"image_id": [1]},
        {"image_id": 99},
    ],
    ids=str,
)
def test_unusable_objects_are_skipped_and_counted(write, change):
    instances = {"annotations": [OBJECT, {**OBJECT, **change}], "categories": [CATEGORY]}
    folder = read_coco_folder(write(instances=instances))
    assert [item.category for item in folder.images[0].objects] == ["cat"]
    assert sum(folder.skipped.values()) == 1


@pytest.mark.parametrize("size", [{"width": 0}, {"height": float("nan")}, {"width": 10**400}, {"height": None}], ids=str)
def test_a_picture_of_impossible_size_has_no_objects(write, size):
    sizes = [{**IMAGE, **size}]
    root = write(instances={"images": sizes, "annotations": [OBJECT], "categories": [CATEGORY]})
    content = json.loads((root / "captions.json").read_text())
    content["images"] = sizes
    (root / "captions.json").write_text(json.dumps(content))
    assert read_coco_folder(root).images[0].objects == ()


@pytest.mark.parametrize("name", ["", "  ", 5, None])
def test_categories_without_a_name_name_nothing(write, name):
    instances = {"annotations": [OBJECT], "categories": [{"id": 3, "name": name}]}
    assert read_coco_folder(write(instances=instances)).images[0].objects == ()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"images": {}}', '{"images": [], "annotations": 3}', "[" * 100_000, "\xff"]
)
def test_annotations_of_another_form_are_an_error_that_names_the_file(write, text):
    root = write()
    (root / "captions.json").write_text(text, encoding="latin-1")
    with pytest.raises(FolderError, match=r"captions\.json"):
        read_coco_folder(root)


def test_a_folder_that_is_none_says_what_it_should_hold(tmp_path):
    with pytest.raises(FolderError, match=r"must hold images/ and captions\.json.*image_id.*instances\.json"):
        read_coco_folder(tmp_path)


def test_a_folder_without_captions_is_refused(write):
    root = write()
    (root / "captions.json").write_text(json.dumps({"images": [IMAGE], "annotations": []}))
    with pytest.raises(FolderError, match=r"captions\.json leaves no photograph: of 1 images none; 1 skipped: images without"):
        read_coco_folder(root)
    root = write([{"id": 2, "file_name": "../x.jpg"}], [{"image_id": 2, "caption": "x"}])
    content = json.loads((root / "captions.json").read_text())
    (root / "captions.json").write_text(json.dumps({**content, "images": content["images"][1:]}))
    with pytest.raises(
        FolderError, match=r"1 skipped: file names that are none .*; 1 skipped: captions that are empty or of no"
    ):
        read_coco_folder(root)


def random_objects(rng):
    corners = rng.uniform(0, 1, size=(rng.integers(0, 7), 2, 2))
    low, high = corners.min(axis=1), corners.max(axis=1) + 0.01
    names = rng.choice(["cat", "dog", "owl", "hot air balloon"], size=len(corners))
    return [CocoObject(str(name), (*a.tolist(), *b.tolist())) for name, a, b in zip(names, low, high, strict=True)]


def place_of(item):
    across, down = (item.box[0] + item.box[2]) / 2, (item.box[1] + item.box[3]) / 2
    row = "top" if down < 1 / 3 else "middle" if down < 2 / 3 else "bottom"
    return f"{row} {'left' if across < 1 / 3 else 'centre' if across < 2 / 3 else 'right'}"


def largest_of(objects):
    def area(item):
        return (item.box[2] - item.box[0]) * (item.box[3] - item.box[1])

    first = max(objects, key=area)
    rivals = [area(item) for item in objects if item.category != first.category]
    return first.category if not rivals or area(first) >= 1.5 * max(rivals) - 1e-12 else None


def test_questions_about_objects_have_one_true_answer():
    rng, categories, kinds = np.random.default_rng(0), ["cat", "dog", "hot air balloon", "owl"], set()
    for _ in range(200):
        objects = random_objects(rng)
        asked = object_questions(objects, categories, rng, per_kind=4)
        assert len({question.text for question in asked if question.kind != "presence"}) == sum(
            question.kind != "presence" for question in asked
        )
        yes_no = [question.answer for question in asked if question.kind == "presence"]
        assert yes_no.count("yes") == yes_no.count("no")
        for question in asked:
            kinds.add(question.kind)
            words = question.text.rstrip("?").split()
            if question.kind == "largest":
                assert question.answer == largest_of(objects)
            elif question.kind == "presence":
                name = " ".join(words[3:])
                assert words[2] == ("an" if name == "owl" else "a")
                assert question.answer == ("yes" if any(item.category == name for item in objects) else "no")
            elif question.kind == "where":
                (found,) = [item for item in objects if item.category == " ".join(words[3:])]
                assert question.answer == place_of(found)
            else:
                there = [item for item in objects if place_of(item) == " ".join(words[-2:])]
                assert question.answer == largest_of(there)
    assert kinds == {"largest", "presence", "where", "at a place"}


@pytest.fixture
def source(shared):
    return PhotographFolder(shared / "data" / "coco_sample", train_views=60)


def test_held_out_photographs_are_never_trained_on(source):
    train, test = ({image.path.name for image in source.photographs(split)} for split in ("train", "test"))
    assert len(train) == 21
    assert len(test) == 5
    assert not train & test
    for split, names in (("train", train), ("test", test)):
        corpus = PhotographCorpus(source, 2, split)
        assert {corpus.name(index).split(" (")[0] for index in range(len(corpus))} == names
    assert set(source.categories) == {item.category for image in source.photographs("train") for item in image.objects}


def test_views_show_the_boxes_they_claim(source):
    """An object's box in a view, traced back through mirroring and cropping, lies in the object's own box."""
    checked = 0
    for view in source.views("train"):
        left, top, right, bottom = view.part
        for item in view.objects:
            x0, y0, x1, y1 = item.box
            assert x0 < x1
            assert y0 < y1
            if view.mirrored:
                x0, x1 = 1 - x1, 1 - x0
            back = np.array([x0 * (right - left) + left, y0 * (bottom - top) + top])
            end = np.array([x1 * (right - left) + left, y1 * (bottom - top) + top])
            own = [np.array(other.box) for other in view.image.objects if other.category == item.category]
            assert any((back >= box[:2] - 1e-9).all() and (end <= box[2:] + 1e-9).all() for box in own)
            assert (np.array(item.box) >= 0).all()
            assert (np.array(item.box) <= 1 + 1e-9).all()
            checked += 1
    assert checked > 100
    view = next(view for view in source.views("train") if view.mirrored)
    whole, part = load_picture(view.image.path), view.load()
    corner = (round(view.part[0] * whole.width), round(view.part[1] * whole.height))
    assert part.getpixel((part.width - 1, 0)) == whole.getpixel(corner)


def test_the_same_folder_gives_the_same_questions(source):
    again = PhotographFolder(source.root, train_views=60)
    assert again.settings() == source.settings()
    assert PhotographCorpus(again, 2).said(30) == PhotographCorpus(source, 2).said(30) != ()
    other = PhotographFolder(source.root, train_views=60, seed=1)
    assert other.settings() != source.settings()
    assert {image.path for image in other.photographs("test")} == {image.path for image in source.photographs("test")}


def test_too_few_photographs_are_refused(write):
    with pytest.raises(FolderError, match=r"1 captioned photographs; at least 5"):
        PhotographFolder(write())


def png_header(width, height):
    content = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR" + content, b"IDAT" + zlib.compress(b""))
    framed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def damaged(path, picture):
    picture.save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "cannot be read"),
        (lambda path: path.write_text("no picture"), "cannot be read"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: path.write_bytes(png_header(100_000, 100_000)), "at most 64,000,000"),
        (lambda path: path.write_bytes(png_header(10_000, 9_000)), "90,000,000 pixels; at most 64,000,000"),
        (lambda path: Image.new("RGB", (3, 90)).save(path, "PNG"), "3 x 90 pixels; a picture needs at least 4 x 4"),
        (lambda path: damaged(path, Image.effect_noise((64, 64), 90)), "cannot be read"),
    ],
    ids=["missing", "text", "folder", "bomb", "huge", "narrow", "truncated"],
)
def test_files_that_are_no_usable_picture_say_why(tmp_path, make, said):
    make(tmp_path / "file.png")
    with pytest.raises(PictureError, match=r"file\.png") as caught:
        load_picture(tmp_path / "file.png")
    assert said in str(caught.value)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    Image.new(mode, (8, 6)).save(tmp_path / "file", "TIFF")
    picture = load_picture(tmp_path / "file")
    assert (picture.mode, picture.size) == ("RGB", (8, 6))
