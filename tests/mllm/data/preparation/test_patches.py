"""Labels of patches: what COCO, Visual Genome and detectors say of pictures, written as one file, and that file checked."""

import json

import numpy as np
import pytest
from PIL import Image

from pargo_cli.main import main
from pargo_mllm.data.pictures import load_picture
from pargo_mllm.data.preparation.patches.visual_genome import content_words
from pargo_mllm.data.regions import label_coverage
from pargo_mllm.data.sources.region_file import RegionFile
from pargo_mllm.data.sources.run_lengths import counts_of, write_counts
from pargo_mllm.data.sources.shards import write_shards
from tests.mllm.made.photographs import noise_picture

WIDTH, HEIGHT = 64, 48
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "bicycle"}]


@pytest.fixture
def pictures(tmp_path):
    """A folder of pictures: two of one base name, one turned by EXIF, one damaged."""
    root = tmp_path / "pictures"
    for name in ("a.jpg", "train/b.jpg", "one/same.png", "two/same.png", "000000000007.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise_picture(HEIGHT, WIDTH).save(root / name)
    (root / "damaged.jpg").write_bytes(b"no picture")
    return root


@pytest.fixture
def patches(tmp_path, capsys):
    """Runs the command: its object, and the file."""

    def run(data, kind, content, *options, status=0):
        (tmp_path / f"{kind}.json").write_text(content if isinstance(content, str) else json.dumps(content))
        out = tmp_path / "out.jsonl"
        out.unlink(missing_ok=True)
        words = [
            "data",
            "patches",
            str(data),
            f"--{kind}",
            str(tmp_path / f"{kind}.json"),
            "--out",
            str(out),
            *map(str, options),
        ]
        assert main([*words, "--json"]) == status
        told = capsys.readouterr()
        return (json.loads(told.out), RegionFile(out)) if status == 0 else told.err

    return run


def coco(annotations, images=None, categories=CATEGORIES):
    images = images or [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}]
    return {"info": {}, "annotations": annotations, "categories": categories, "images": images}


def test_boxes_polygons_runs_and_crowds_of_coco_cover_their_pixels(pictures, patches):
    """Things at whole pixels, said in every way that COCO has: each covers the same."""
    seen = np.zeros((HEIGHT, WIDTH), bool)
    seen[8:24, 16:48] = True
    counts = counts_of(seen)
    ways = [
        {"bbox": [16, 8, 32, 16]},
        {"bbox": [16, 8, 32, 16], "segmentation": []},
        {"bbox": [0, 0, 1, 1], "segmentation": [[16, 8, 48, 8, 48, 24, 16, 24]]},
        {"segmentation": [[16, 8, 32, 8, 32, 24, 16, 24], [32, 8, 48, 8, 48, 24, 32, 24]]},
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts.tolist()}, "iscrowd": 1},
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": write_counts(counts)}},
    ]
    rows = [{"id": number, "image_id": 1, "category_id": 1, **way} for number, way in enumerate(ways)]
    about, file = patches(pictures, "instances", coco(rows))
    assert (about["pictures"], about["entries"], about["used"], about["skipped"]) == (1, 6, 6, {})
    assert about["names"] == {"cat": 6}
    for region in file.of("a.jpg"):
        assert np.allclose(region.coverage((HEIGHT, WIDTH)), seen, atol=1e-9)


def test_things_that_cannot_be_used_are_counted(pictures, patches):
    images = [
        *({"id": id, "file_name": name, "width": WIDTH, "height": HEIGHT} for id, name in ((1, "a.jpg"), (2, "absent.jpg"))),
        *(
            {"id": id, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for id, name in ((3, "same.png"), (4, "damaged.jpg"))
        ),
        {"id": 5, "file_name": "b.jpg", "width": HEIGHT, "height": WIDTH},
        *(
            {"id": id, "file_name": name, "width": 8, "height": 6}
            for id, name in ((6, "x.jpg"), (6, "y.jpg"), (8, "train/../a.jpg"))
        ),
        *(None, {"id": 9}, {"id": 10, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}),
    ]
    box = {"category_id": 1, "bbox": [16, 8, 32, 16]}
    rows = [
        *({**box, "image_id": id} for id in range(1, 12)),
        *({**box, "image_id": 1, "category_id": id} for id in (3, None, [1])),
        *({**box, "image_id": 1, "bbox": told} for told in ([16, 8], None, [16, 8, -3, 4], [60, 8, 32, 16], [1e400, 0, 1, 1])),
        *({**box, "image_id": 1, "segmentation": told} for told in ("x", {"size": [HEIGHT, WIDTH], "counts": [1, 2]})),
        *(None, [], {}),
    ]
    about, file = patches(pictures, "instances", coco(rows, images))
    assert about["skipped"] == {
        "regions of pictures that are not there": 2,  # 2, and 9 that has no name
        "regions of pictures whose name several have": 1,
        "regions of pictures that cannot be read": 1,
        "regions of pictures that have another shape than the file says": 1,
        "regions of an image of which the file says two things": 1,
        "regions of a picture of which was said already": 2,  # 8 and 10
        "regions of an image that the file does not list": 2,  # 7 and 11
        "regions that are no object": 2,
        "regions whose image_id is no number": 1,
        "regions of a category that has no name": 3,
        "regions without a box and without a mask": 1,
        "regions whose box is no four numbers": 2,
        "regions that are reversed or cover nothing of the picture": 1,
        "regions whose box leaves the picture by more than a pixel": 1,
        "regions whose polygons are no lists of x and y of three points or more": 1,
        "regions whose mask is no size with runs that fill it": 1,
    }
    assert about["entries"] == about["used"] + sum(about["skipped"].values()) == len(rows)
    assert len(file) == 1


@pytest.mark.parametrize("turn", [3, 5, 6, 7, 8])
@pytest.mark.parametrize("way", ["bbox", "polygons", "runs"])
def test_what_is_drawn_on_stored_pixels_lies_on_the_upright_picture(pictures, patches, turn, way):
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[4:16, 8:40] = 255
    exif = Image.Exif()
    exif[274] = turn
    Image.fromarray(pixels).save(pictures / "turned.png", exif=exif)
    ways = {
        "bbox": {"bbox": [8, 4, 32, 12]},
        "polygons": {"segmentation": [[8, 4, 40, 4, 40, 16, 8, 16]]},
        "runs": {"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts_of(pixels[..., 0] > 0).tolist()}},
    }
    images = [{"id": 1, "file_name": "turned.png", "width": WIDTH, "height": HEIGHT}]
    _, file = patches(pictures, "instances", coco([{"image_id": 1, "category_id": 1, **ways[way]}], images))
    shown = np.asarray(load_picture(pictures / "turned.png"))[..., 0] > 128
    (region,) = file.of("turned.png")
    if turn == 3:
        # upside down: both readings have the same shape, and an annotator sees the upright one
        shown = pixels[..., 0] > 128
    assert np.allclose(region.coverage(shown.shape), shown, atol=1e-9)


def test_content_words_name_what_is_seen():
    assert content_words("The man's two red T-shirts are on top of a chair") == ["man", "red", "t-shirts", "chair"]
    assert content_words("Ein Stück Käse!  cheese, CHEESE 3 kg") == ["ein", "stück", "käse", "cheese", "kg"]
    assert content_words("it is in front of the 2 of them") == []


@pytest.mark.parametrize("sizes", [True, False], ids=["with image_data", "without"])
def test_words_of_visual_genome_are_labels(pictures, patches, tmp_path, sizes):
    noise_picture(HEIGHT, WIDTH).save(pictures / "train" / "12.jpg")
    if sizes:
        # of a picture that was scaled since
        (tmp_path / "image_data.json").write_text(
            json.dumps([{"image_id": 12, "width": 2 * WIDTH, "height": 2 * HEIGHT}, None])
        )
    scale = 2 if sizes else 1
    box = {"x": 16 * scale, "y": 8 * scale, "width": 32 * scale, "height": 16 * scale}
    told = [
        {"region_id": 1, "phrase": "the red bicycle", **box},
        {"region_id": 2, "phrase": "on the left", **box},
        {"region_id": 3, "phrase": "a dog", **box, "x": None},
        {"region_id": 4, "phrase": "a dog", **box, "image_id": 13},
        None,
    ]
    rows = [
        {"id": 12, "regions": told},
        {"id": 99, "regions": told[:1]},
        {"id": 12, "regions": told[:1]},
        {"regions": told[:1]},
        {"id": 14, "regions": 3},
    ]
    (tmp_path / "synonyms.json").write_text(json.dumps({"Bicycle": ["bike", "cycle"]}))
    about, file = patches(pictures, "regions", rows, "--synonyms", tmp_path / "synonyms.json")
    assert [region.names for region in file.of("train/12.jpg")] == [("red",), ("bicycle", "bike", "cycle")]
    covered = label_coverage(file.of("train/12.jpg"), (6, 8))
    assert covered["bicycle"].sum() == covered["red"].sum() == 2 * 4
    assert (about["entries"], about["used"]) == (9, 1)
    assert about["skipped"] == {
        "regions of pictures that are not there": 1,
        "regions of a picture of which was said already": 1,
        "photographs without a list of regions": 1,
        "regions of photographs without an id": 1,
        "regions whose phrase has no content word": 2,
        "regions whose box is no four numbers": 1,
        "regions that name another photograph than the one they stand with": 1,
    }


@pytest.mark.parametrize("names", ["instances", "list", "object"])
def test_results_in_cocos_form_are_read(pictures, patches, tmp_path, names):
    given = {
        "instances": coco([], [{"id": 7, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}]),
        "list": CATEGORIES,
        "object": {"1": "cat", "2": "bicycle"},
    }
    (tmp_path / "categories.json").write_text(json.dumps(given[names]))
    box = {"image_id": 7, "category_id": 2, "bbox": [16, 8, 32, 16]}
    rows = [{**box, "score": 0.9}, {**box, "score": 0.3}, box, {**box, "score": 2}, {**box, "image_id": None, "score": 1}]
    # a detector's box may leave the picture, and is cut off there
    rows.append({**box, "bbox": [-10, -10, 26, 34], "score": 0.5})
    options = ("--categories", tmp_path / "categories.json", "--min-score", "0.5")
    about, file = patches(pictures, "detections", rows, *options)
    found = file.of("a.jpg" if names == "instances" else "000000000007.jpg")
    assert [(region.names, region.score) for region in found] == [(("bicycle",), 0.9), (("bicycle",), 0.5)]
    assert found[1].shape == (0.0, 0.0, 0.25, 0.5)
    assert about["skipped"] == {
        "detections below --min-score": 1,
        "detections without a score": 1,
        "regions whose score is no number from 0 to 1": 1,
        "regions whose image_id is no number": 1,
    }


@pytest.mark.parametrize(
    "names",
    [
        coco([], categories=[{"id": 1, "name": "dog"}, {"id": 1, "name": "horse"}, {"id": 2, "name": "cat"}]),
        [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 1, "name": "horse"}, {"id": 2, "name": "cat"}],
        '{"1": "dog", "2": "cat", "1": "horse"}',
    ],
    ids=["instances", "list", "object"],
)
def test_a_category_that_has_two_names_has_none(pictures, patches, tmp_path, names):
    (tmp_path / "categories.json").write_text(names if isinstance(names, str) else json.dumps(names))
    rows = [{"image_id": 7, "category_id": id, "bbox": [16, 8, 32, 16], "score": 1} for id in (1, 2)]
    if isinstance(names, dict):
        names["images"] = [{"id": 7, "file_name": "000000000007.jpg", "width": WIDTH, "height": HEIGHT}]
        (tmp_path / "categories.json").write_text(json.dumps(names))
    about, _ = patches(pictures, "detections", rows, "--categories", tmp_path / "categories.json")
    assert (about["names"], about["skipped"]) == (
        {"cat": 1},
        {"regions of a category of which the file says two things": 1},
    )


def test_masks_and_polygons_that_do_not_fit_their_picture_are_counted(pictures, patches):
    """A mask of half the size fills the picture; one of another shape is of another picture. What a detector draws over the
    border is cut there, what an annotator does is no mistake by a pixel. A row that is there twice counts once.
    """
    half = np.zeros((HEIGHT // 2, WIDTH // 2), bool)
    half[4:12, 8:24] = True
    row = {"id": 1, "image_id": 1, "category_id": 1}
    wedge = [-32, 0, 32, 0, 32, 32]
    rows = [
        {**row, "segmentation": {"size": list(half.shape), "counts": counts_of(half).tolist()}},
        {**row, "segmentation": {"size": [HEIGHT, HEIGHT], "counts": [0, HEIGHT * HEIGHT]}},
        {**row, "segmentation": [wedge], "score": 1},
        *[{**row, "bbox": [0, 0, 8, 8], "score": 1}] * 2,
    ]
    about, file = patches(pictures, "instances", coco(rows))
    assert about["used"] == 2
    assert about["skipped"] == {
        "regions whose mask has another shape than the picture": 1,
        "regions whose polygons leave the picture by more than a pixel": 1,
        "regions that are listed again": 1,
    }
    seen = np.kron(half, np.ones((2, 2), bool))
    assert np.allclose(file.of("a.jpg")[0].coverage((HEIGHT, WIDTH)), seen, atol=1e-9)


def test_polygons_of_a_detector_are_cut_at_the_border(pictures, patches, tmp_path):
    (tmp_path / "categories.json").write_text(json.dumps(coco([])))
    wedge = {"image_id": 1, "category_id": 1, "segmentation": [[-32, 0, 32, 0, 32, 32]], "score": 1}
    about, file = patches(pictures, "detections", [wedge], "--categories", tmp_path / "categories.json")
    assert about["used"] == 1
    (region,) = file.of("a.jpg")
    # of a triangle of 64 x 32, a quarter lies in front of the picture
    assert region.coverage((1, 1))[0, 0] * WIDTH * HEIGHT == pytest.approx(32 * 32 * 3 / 4, rel=1e-3)
    assert min(min(point) for polygon in region.shape.polygons for point in polygon) == 0


def test_plain_detections_are_read_in_every_frame(pictures, patches):
    boxes = {
        "pixels": [32, 16, 96, 48],
        "picture": [0.25, 1 / 6, 0.75, 0.5],
        "thousand": [250, 1000 / 6, 750, 500],
        # the square that the picture lies in the middle of has its width, and begins an eighth of it above
        "padded": [0.25, 0.125 + 0.125, 0.75, 0.5],
    }
    found = [{"label": "dog", "box": box, "frame": frame, "score": 0.75} for frame, box in boxes.items()]
    bad = [*({**found[0], "frame": frame} for frame in ("yards", None, [])), {**found[0], "label": 3}, {"label": "dog"}, None]
    rows = {
        "a.jpg": {"size": [2 * WIDTH, 2 * HEIGHT], "detections": [*found, *bad]},
        "b.jpg": {"detections": [{**found[0], "box": [16, 8, 48, 24]}]},
        "damaged.jpg": {"size": [0, 3], "detections": found},
        "000000000007.jpg": [],
    }
    about, file = patches(pictures, "detections", rows)
    for name in ("a.jpg", "train/b.jpg"):
        for region in file.of(name):
            assert region.shape == pytest.approx((0.25, 1 / 6, 0.75, 0.5), abs=1e-4)
            assert region.score == 0.75
    # a picture without a list is an entry of its own
    assert (about["entries"], about["used"], about["pictures"]) == (16, 5, 2)
    assert sum(about["skipped"].values()) == 11
    assert about["skipped"]["pictures without a list of detections"] == 1


def test_pictures_of_lists_folders_and_shards_are_found(pictures, patches, tmp_path):
    row = {"image_id": 1, "category_id": 1, "bbox": [16, 8, 32, 16]}
    (pictures / "list.json").write_text("[]")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "images").symlink_to(pictures)
    content = (pictures / "a.jpg").read_bytes()
    write_shards([("a", {"jpg": content, "txt": b"a cat"})], tmp_path / "shards")
    for data, options in (
        *((pictures / "list.json", ()), (tmp_path / "whole", ()), (tmp_path / "shards", ())),
        *((tmp_path / "shards" / "000000.tar", ()), (pictures / "list.json", ("--image-root", pictures))),
    ):
        about, file = patches(data, "instances", coco([row]), *options)
        assert about["used"] == 1
        assert len(file.of("a" if "shards" in str(data) else "a.jpg")) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        *(("", "cannot be read as a JSON"), ("{", "cannot be read as a JSON"), ("[]", "cannot be read as a JSON object")),
        *(('{"images": 3, "categories": [], "annotations": []}', "has no list 'images'"), (coco([]), "of 0 regions none")),
        (coco([], categories=[{"id": 1}, {"id": 2, "name": " "}]), "names no category: of 2 none has an id and a name"),
        (coco([{"image_id": 1}]), "of 1 regions none can be used; 1 skipped: regions of a category that has no name"),
        ("[" * 100_000, "cannot be read as a JSON object"),
    ],
    ids=range(8),
)
def test_files_that_are_none_are_refused_and_leave_nothing(pictures, patches, tmp_path, content, said):
    assert said in patches(pictures, "instances", content, status=2)
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--instances", "x"], "--out FILE.jsonl"),
        (["--instances", "x", "--out", "-"], "--out - is not standard output"),
        (["--instances", "x", "--out", "o", "--min-score", "0.5"], "--min-score is for --detections"),
        (["--regions", "x", "--out", "o", "--categories", "c"], "--categories is for --detections"),
        (["--check", "x", "--out", "o"], "--check does not"),
        (["--check", "x", "--synonyms", "o"], "--check does not"),
        (["--detections", "x", "--out", "o"], "x cannot be read"),
        (["--check", "x"], "x cannot be read"),
        (["--instances", "x", "--out", "o", "--synonyms", "s"], "s cannot be read as JSON"),
        (["--instances", "x", "--out", "o", "--image-root", "s"], "--image-root says where"),
    ],
)
def test_options_that_do_not_go_together_are_refused(pictures, capsys, options, said):
    assert main(["data", "patches", str(pictures), *options]) == 2
    told = capsys.readouterr().err.strip()
    assert said in told
    assert "\n" not in told


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"cat": "x"}',
        '{"cat": [3]}',
        '{" ": []}',
        '{"cat": [], "CAT ": []}',
        '{"cat": [], "cat": []}',
        "{",
        '{"a": ["\\ud800"]}',
    ],
)
def test_synonyms_that_are_none_are_refused(pictures, patches, tmp_path, content):
    (tmp_path / "s.json").write_text(content)
    assert "s.json" in patches(pictures, "instances", coco([]), "--synonyms", tmp_path / "s.json", status=2)


def test_data_without_pictures_are_refused(patches, tmp_path):
    for data in ("scenes", tmp_path / "absent", tmp_path / "absent.json", "x\0y"):
        assert patches(data, "instances", coco([]), status=2).count("\n") == 1


def test_a_file_is_checked_against_its_pictures(pictures, tmp_path, capsys):
    cat = {"labels": ["cat"], "box": [16, 8, 48, 24]}
    good = {"image": "a.jpg", "size": [WIDTH, HEIGHT], "regions": [cat]}
    file = tmp_path / "regions.jsonl"

    def check(*lines, status):
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        assert main(["data", "patches", str(pictures), "--check", str(file), "--json"]) == status
        return json.loads(capsys.readouterr().out)

    assert check(good, status=0)["skipped"] == {}
    # what is not there by this very name is not found in training
    told = check(
        good,
        {**good, "image": "b.jpg"},
        {**good, "image": "train/b.jpg", "size": [HEIGHT, HEIGHT]},
        {**good, "image": "damaged.jpg"},
        {**good, "image": "000000000007.jpg", "regions": [{**cat, "box": [0, 0, 99, 9]}]},
        3,
        status=1,
    )
    assert (told["entries"], told["used"]) == (5, 1)
    assert told["skipped"] == {
        "regions of pictures that are not there": 1,
        "regions of pictures that have another shape than the file says": 1,
        "regions of pictures that cannot be read": 1,
        "regions whose box leaves the picture by more than a pixel": 1,
    }
    assert told["lines"] == {
        "entries": 6,
        "used": 2,
        "skipped": {
            "lines of pictures that are not there": 1,
            "lines of pictures that have another shape than the file says": 1,
            "lines of pictures that cannot be read": 1,
            "lines that are no picture with its regions": 1,
        },
    }


def test_names_without_tokens_are_told(pictures, patches, tmp_path, make_model, processor):
    make_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    rows = [{"image_id": 1, "category_id": id, "bbox": [16, 8, 32, 16]} for id in (1, 2)]
    named = [{"id": 1, "name": "red square"}, {"id": 2, "name": "red bicycle"}]
    about, _ = patches(pictures, "instances", coco(rows, None, named), "--model", tmp_path / "model")
    assert about["without_tokens"] == ["red bicycle"]


def test_areas_and_boxes_of_the_coco_sample(shared, patches):
    data = shared / "data/coco_sample"
    told = json.loads((data / "instances.json").read_text())
    about, file = patches(data, "instances", told)
    assert (about["entries"], about["used"], about["pictures"]) == (333, 333, 26)
    of_image = {}
    for row in told["annotations"]:
        of_image.setdefault(row["image_id"], []).append(row)
    errors = []
    for image in told["images"]:
        size = image["width"] * image["height"]
        for row, region in zip(of_image[image["id"]], file.of(image["file_name"]), strict=True):
            # of crowds COCO has another area than their runs
            if not row["iscrowd"]:
                errors.append(abs(region.coverage((1, 1))[0, 0] * size - row["area"]) / (row["area"] + 100))
    assert max(errors) < 0.002
    assert np.mean(errors) < 2e-4
