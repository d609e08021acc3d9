"""A file of what is where in pictures: how it is read, and how corpora hand on what it says."""

import json
import pickle
import tracemalloc

import numpy as np
import pytest

from pargo_mllm.data.corpus import CorpusError, OtherShape
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.regions import Outline, label_coverage
from pargo_mllm.data.sources.region_file import RegionFile
from pargo_mllm.data.sources.region_lines import read_line, write_line
from pargo_mllm.data.sources.run_lengths import counts_of, write_counts
from pargo_mllm.data.sources.shards import write_shards
from tests.mllm.made.photographs import noise_picture, write_photographs

CAT = {"labels": [["cat", "kitten"], "grey"], "box": [4, 0, 8, 8]}
LINE = {"image": "a.jpg", "size": [16, 8], "regions": [CAT]}


@pytest.fixture
def write(tmp_path):
    """Writes lines of a file: of each its JSON, or its bytes."""

    def make(*lines):
        texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        (tmp_path / "regions.jsonl").write_bytes(b"\n".join(texts) + b"\n")
        return tmp_path / "regions.jsonl"

    return make


def test_what_is_where_in_a_picture_is_read(write):
    pixels = np.zeros((4, 8), bool)
    pixels[1:3, 2:5] = True
    kite = {"labels": ["kite"], "polygons": [[0, 0, 8, 0, 8, 8, 0, 8], [8, 0, 16, 0, 16, 4, 8, 4]], "score": 0.5}
    told = {"size": [4, 8], "counts": counts_of(pixels).tolist()}
    masks = [
        {"labels": ["sea"], "mask": told},
        {"labels": ["lake"], "mask": {**told, "counts": write_counts(counts_of(pixels))}},
    ]
    file = RegionFile(write(LINE, {"image": "b/c.png", "size": [16, 8], "regions": [kite, *masks]}))
    assert file.names == ("cat", "grey", "kite", "lake", "sea")
    assert len(file) == 2
    assert "a.jpg" in file
    assert "c.png" not in file
    first, second = file.of("a.jpg")
    assert (first.names, first.shape, second.names) == (("cat", "kitten"), (0.25, 0.0, 0.5, 1.0), ("grey",))
    found = {region.names[0]: region for region in file.of("./b//c.png")}
    assert isinstance(found["kite"].shape, Outline)
    assert found["kite"].score == 0.5
    assert found["kite"].coverage((2, 2)).tolist() == [[1, 1], [1, 0]]
    for name in ("sea", "lake"):
        assert (found[name].coverage((4, 8)) == pixels).all()
    assert file.of("other.jpg") == ()
    assert {kind: (tally.entries, tally.used) for kind, tally in file.tallies.items()} == {
        "pictures": (2, 2),
        "regions": (4, 4),
    }
    # what it says is written as it was read
    for line in file.lines():
        again = read_line(json.loads(json.dumps(write_line(line.image, line.size, line.things))))
        assert (again.image, again.size) == (line.image, line.size)
        assert write_line(again.image, again.size, again.things) == write_line(line.image, line.size, line.things)
    # a worker of its own reads it too
    assert pickle.loads(pickle.dumps(file)).of("a.jpg")[0].names == ("cat", "kitten")


def many(count, **other):
    return [{**CAT, **other}] * count


BAD_REGIONS = {
    "regions that are no object": [None, 3, "cat", []],
    "regions without a label, or with one that is no text": [
        *(
            {**CAT, "labels": told}
            for told in (None, "cat", [], [[]], [3], ["cat", None], [" "], ["."], ["half\ud800"], {"a": 1})
        )
    ],
    "regions with a name of more than 200 characters, or more than 100 labels": [
        *({**CAT, "labels": told} for told in (["x" * 201], ["x"] * 101, [["x"] * 101]))
    ],
    "regions that have not one of box, polygons and mask": [{"labels": ["cat"]}, {**CAT, "polygons": [[0, 0, 1, 0, 1, 1]]}],
    "regions whose box is no four numbers": [
        *(
            {**CAT, "box": box}
            for box in ([1, 2, 3], "1234", [1, 2, 3, "4"], [1, 2, 3, True], [0, 0, 1e300, 1], {}, [[1], 2, 3, 4])
        )
    ],
    "regions that are reversed or cover nothing of the picture": [
        *({**CAT, "box": box} for box in ([8, 0, 4, 8], [4, 0, 4, 8], [16, 0, 17, 8], [4, -1, 8, 0], [4, 0, 4.001, 8])),
        {"labels": ["cat"], "polygons": [[20, 0, 30, 0, 30, 5]]},
        {"labels": ["cat"], "mask": {"size": [2, 2], "counts": [4]}},
    ],
    "regions whose box leaves the picture by more than a pixel": [
        *({**CAT, "box": box} for box in ([4, 0, 8, 9.1], [-1.1, 0, 8, 8], [0, 0, 1000, 1000], [0, -2, 8, 8]))
    ],
    "regions whose polygons are no lists of x and y of three points or more": [
        *(
            {"labels": ["cat"], "polygons": told}
            for told in ([], [[]], [[0, 0, 1, 1]], [[0, 0, 1, 0, 1]], [3], "x", [0, 0, 1, 0, 1, 1])
        )
    ],
    "regions whose mask is no size with runs that fill it": [
        *({"labels": ["cat"], "mask": told} for told in ([], {}, {"size": [2, 2]}, {"size": [2, 2], "counts": [1, 2]}, "x")),
        {"labels": ["cat"], "mask": {"size": [10**6, 10**6], "counts": [0, 10**12]}},
        {"labels": ["cat"], "mask": {"size": [2.0, 2], "counts": [0, 4]}},
    ],
    "regions whose score is no number from 0 to 1": [
        *({**CAT, "score": score} for score in (-0.1, 1.1, None, "1", True, float("nan"), 10**400))
    ],
}


@pytest.mark.parametrize("reason", BAD_REGIONS)
def test_regions_that_cannot_be_used_are_counted(write, reason):
    bad = BAD_REGIONS[reason]
    file = RegionFile(write({**LINE, "regions": [*bad, CAT]}))
    assert len(file.of("a.jpg")) == 2
    tally = file.tallies["regions"]
    assert dict(tally.skipped) == {reason: len(bad)}
    assert tally.entries == tally.used + tally.skipped.total()


BAD_LINES = {
    "lines that are no JSON": [b"{", b"\xff\xfe", b"[" * 100_000, b'{"image": "a.jpg"} x'],
    "lines that are no picture with its regions": [
        b"[]",
        b"3",
        {},
        {"image": "b.jpg", "size": [1, 1]},
        {**LINE, "regions": {}},
    ],
    "lines whose image is no name of a file": [
        {**LINE, "image": name} for name in (None, 3, "", "../a.jpg", "/a.jpg", "half\ud800")
    ],
    "lines whose size is no width and height": [
        *(
            {**LINE, "image": "b.jpg", "size": size}
            for size in (None, [16], [0, 8], [-1, 8], ["16", 8], [True, 8], [1e300, 8], 16, [2e-7, 1e-7], [1e-320, 10**6])
        )
    ],
    "lines of a picture that an earlier line names": [LINE, {**LINE, "image": "./a.jpg", "regions": many(3)}],
}


@pytest.mark.parametrize("reason", BAD_LINES)
def test_lines_that_cannot_be_used_are_counted(write, reason):
    bad = BAD_LINES[reason]
    file = RegionFile(write(LINE, *bad))
    assert dict(file.tallies["pictures"].skipped) == {reason: len(bad)}
    for tally in file.tallies.values():
        assert tally.entries == tally.used + tally.skipped.total()
    assert len(file.of("a.jpg")) == 2


@pytest.mark.parametrize("content", [b"", b"\n\n", b"[]\n", b"\x1f\x8b123", b"x" * 100], ids=range(5))
def test_a_file_without_a_picture_is_refused(write, tmp_path, content):
    with pytest.raises(CorpusError, match=r"regions\.jsonl"):
        RegionFile(write(content))
    with pytest.raises(CorpusError, match="cannot be read"):
        RegionFile(tmp_path)
    with pytest.raises(CorpusError, match="cannot be read"):
        RegionFile(tmp_path / "absent.jsonl")


def test_a_file_that_changed_is_refused_and_names_nothing_else(write):
    path = write(LINE, {**LINE, "image": "b.jpg"})
    file = RegionFile(path)
    write({**LINE, "image": "b.jpg"}, LINE)
    with pytest.raises(CorpusError, match="has changed since it was opened"):
        file.of("a.jpg")
    # the same picture's, as long as before
    write({**LINE, "regions": [{**CAT, "box": [4, 0, 8, 7]}]}, {**LINE, "image": "b.jpg"})
    with pytest.raises(CorpusError, match="has changed since it was opened"):
        file.of("a.jpg")
    with pytest.raises(CorpusError, match="has changed since it was opened"):
        list(file.lines())
    assert file.of("b.jpg")
    write({})
    with pytest.raises(CorpusError, match="byte 0"):
        file.of("a.jpg")


def test_bombs_take_megabytes(write):
    """Small texts that stand for large rasters, many of them: they are bounded, and drawn one at a time, if at all."""
    mask = {"labels": ["sea"], "mask": {"size": [2048, 4096], "counts": [0, 2**23]}}
    outline = {"labels": ["kite"], "polygons": [[0, 0, 16, 0, 16, 8, 0, 8]]}
    path = write({**LINE, "regions": [mask] * 160}, {**LINE, "image": "b.jpg", "regions": [outline] * 4200})
    tracemalloc.start()
    try:
        file = RegionFile(path)
        seas, kites = file.of("a.jpg"), file.of("b.jpg")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(seas), len(kites)) == (128, 4096)
    assert file.tallies["regions"].skipped.total() == 4360 - 128 - 4096
    assert peak < 2**26


def test_labels_of_a_picture_are_bounded(write):
    """Each is a map of its own for training: a small file could ask for gigabytes of them."""
    many_named = [{**CAT, "labels": [f"{number}-{one}" for one in range(100)]} for number in range(60)]
    file = RegionFile(write({**LINE, "regions": many_named}))
    assert sum(len(region.names) for region in file.of("a.jpg")) == 4000
    assert file.tallies["regions"].skipped.total() == 20


def test_photographs_take_what_a_file_says_in_place_of_their_boxes(tmp_path):
    write_photographs(tmp_path / "data", 10)
    rows = [
        {"image": f"{number}.jpg", "size": [120, 90], "regions": [{"labels": ["sky"], "box": [0, 0, 60, 90]}]}
        for number in range(9)
    ]
    (tmp_path / "regions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain, told = (
        open_corpus(tmp_path / "data", 1, views=30, **more) for more in ({}, {"regions": tmp_path / "regions.jsonl"})
    )
    assert told.settings() == {**plain.settings(), "regions": RegionFile(tmp_path / "regions.jsonl").digest}
    assert "regions" not in plain.settings()
    # features of pictures are those of before
    assert told.shows() == plain.shows()
    for index in range(len(told)):
        before, now = plain[index].regions[0](), told[index].regions[0]()
        if told.name(index).startswith("9.jpg"):
            assert now is None
            continue
        (region,) = now
        assert region.names == ("sky",)
        assert all(region.window == other.window for other in before)


def test_lists_and_shards_say_what_a_file_says_of_their_pictures(write, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    records = []
    for number, names in enumerate((["a.jpg"], ["a.jpg", "b.jpg"], [])):
        turns = [{"from": "human", "value": "<image>" * len(names) + "what?"}, {"from": "gpt", "value": "this"}]
        records.append({"id": f"r{number}", "image": names, "conversations": turns})
    noise_picture(8, 16).save(images / "a.jpg")
    noise_picture(8, 16).save(images / "b.jpg")
    (tmp_path / "list.json").write_text(json.dumps(records))
    lines = [LINE, {**LINE, "image": "k"}, {**LINE, "image": "two.1", "regions": [{**CAT, "labels": ["dog"]}]}]
    path = write(*lines)
    listed = open_corpus(tmp_path / "list.json", 2, regions=path)
    said = [[one() and [region.names[0] for region in one()] for one in listed[index].regions] for index in range(3)]
    # of b.jpg nobody says what is there, which is not that nothing is
    assert said == [[["cat", "grey"]], [["cat", "grey"], None], []]
    # absolute names lead from the root
    records[0]["image"] = [str(images / "a.jpg")]
    (tmp_path / "absolute.json").write_text(json.dumps(records[:1]))
    rooted = open_corpus(tmp_path / "absolute.json", 2, image_root=images, regions=path)
    assert len(rooted[0].regions[0]()) == 2
    content = (images / "a.jpg").read_bytes()
    both = {"0.jpg": content, "1.jpg": content, "json": json.dumps({"conversations": records[1]["conversations"]}).encode()}
    write_shards([("k", {"jpg": content, "txt": b"a cat"}), ("two", both)], tmp_path / "shards")
    plain, sharded = (open_corpus(tmp_path / "shards", 2, **more) for more in ({}, {"regions": path}))
    found = {sharded.key(index): [one() and len(one()) for one in sharded[index].regions] for index in range(2)}
    assert found == {"k": [2], "two": [None, 1]}
    assert sharded.settings() == {**plain.settings(), "regions": sharded.regions.digest}
    assert [plain[index].regions for index in range(2)] == [None, None]
    assert open_corpus(tmp_path / "list.json", 2)[0].regions is None
    covered = label_coverage(listed[0].regions[0](), (1, 4))
    assert covered["cat"].tolist() == [[0, 1, 0, 0]]


def test_what_is_said_of_a_picture_of_another_shape_is_not_used(write, tmp_path):
    """A square for a picture of 16 x 8, in every form of data; half its size, rounded, is its shape."""
    images = tmp_path / "images"
    images.mkdir()
    noise_picture(8, 16).save(images / "a.jpg")
    turns = [{"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "this"}]
    (tmp_path / "list.json").write_text(json.dumps([{"image": "a.jpg", "conversations": turns}]))
    write_shards([("a", {"jpg": (images / "a.jpg").read_bytes(), "txt": b"a cat"})], tmp_path / "shards")
    write_photographs(tmp_path / "folder", 10)
    at_first = open_corpus(tmp_path / "folder", 1).name(0).split()[0]
    for source, name in ((tmp_path / "list.json", "a.jpg"), (tmp_path / "shards", "a"), (tmp_path / "folder", at_first)):
        for size in ([100, 100], [60, 45] if source.name == "folder" else [8, 4]):
            path = write({"image": name, "size": size, "regions": [{**CAT, "box": [0, 0, 4, 4]}]})
            (regions,) = open_corpus(source, 1, regions=path)[0].regions
            if size[0] != size[1]:
                assert len(regions()) == 2
                continue
            with pytest.raises(OtherShape, match=f"{name} has 100 x 100 pixels, and it has"):
                regions()


def test_scenes_take_no_file(write):
    with pytest.raises(CorpusError, match="know what is where"):
        open_corpus("scenes", 1, regions=write(LINE))
