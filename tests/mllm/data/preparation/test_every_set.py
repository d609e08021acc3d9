"""What holds of every data set that can be prepared, on its official files in small."""

from __future__ import annotations

import json

import pytest

from pargo_cli.data_sets import DATA_SETS
from pargo_mllm.data.frames import convert, read_box
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.preparation.data_set import Options
from pargo_mllm.data.preparation.run import Form, prepare
from pargo_mllm.data.preparation.sets import find
from pargo_mllm.jobs import engine_of
from tests.mllm.made.official import write
from tests.mllm.made.official.serving import anywhere

SETS = tuple(DATA_SETS)


def prepared(name, tmp_path, out="out", form=None, options=None):
    source = tmp_path / "source"
    truth = None
    if not source.exists():
        source.mkdir()
        truth = write(name, source)
    form = form or Form(fetch=True)
    about = prepare(find(name), source, tmp_path / out, options or Options(), form, engine_of("local", 1), anywhere)
    return about, truth, source


@pytest.mark.parametrize("name", SETS)
def test_records_are_those_of_the_official_files(name, tmp_path):
    about, truth, source = prepared(name, tmp_path)
    records = {record["id"]: record for record in json.loads((tmp_path / "out" / "data.json").read_text())}
    assert records.keys() == truth.pictures.keys()
    assert about["entries"] == about["records"] + sum(about["skipped"].values())
    assert (about["records"], sum(about["skipped"].values())) == (len(records), truth.skipped)
    for id, record in records.items():
        file = truth.pictures[id]
        assert ("image" in record) == (file is not None)
        if file is not None:
            content = file if isinstance(file, bytes) else (source / file).read_bytes()
            assert (tmp_path / "out" / "images" / record["image"]).read_bytes() == content
        told = "\n".join(turn["value"] for turn in record["conversations"])
        places = [told.find(text) for text in truth.said.get(id, ())]
        assert places == sorted(places)
        assert -1 not in places, (id, told, truth.said[id])


@pytest.mark.parametrize("name", SETS)
def test_shards_hold_the_same_examples(name, tmp_path):
    prepared(name, tmp_path)
    prepared(name, tmp_path, "shards", Form(per_shard=7, fetch=True))
    listed, shards = (open_corpus(tmp_path / out, 2) for out in ("out/data.json", "shards"))
    assert len(listed) == len(shards)
    assert sorted(str(listed[index].conversations) for index in range(len(listed))) == sorted(
        str(shards[index].conversations) for index in range(len(shards))
    )


@pytest.mark.parametrize("name", [name for name in SETS if find(name).has_boxes])
@pytest.mark.parametrize("frame", ["picture", "pixels", "padded", "thousand"])
def test_boxes_are_written_in_the_frame_that_the_record_declares(name, frame, tmp_path):
    _, truth, _ = prepared(name, tmp_path, options=Options(frame=frame))
    records = {record["id"]: record for record in json.loads((tmp_path / "out" / "data.json").read_text())}
    for id, (box, size) in truth.boxes.items():
        record = records[id]
        assert record["frame"] == frame
        assert (record["width"], record["height"]) == size
        found = read_box("\n".join(turn["value"] for turn in record["conversations"]))
        assert convert(found, frame, "pixels", size) == pytest.approx(box, abs=0.002 * max(size))
