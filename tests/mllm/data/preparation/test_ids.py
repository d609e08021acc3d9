"""An id means one record, whatever ids official files have."""

import io
import json
import tarfile
from collections import Counter

import pytest

from pargo_mllm.data.preparation import run
from pargo_mllm.data.preparation.data_set import COARSE, DataSet, Options
from pargo_mllm.data.preparation.entries import Entry, turns
from pargo_mllm.data.preparation.run import Form, prepare
from pargo_mllm.data.preparation.sets import find
from pargo_mllm.jobs import engine_of
from tests.mllm.made.photographs import noise_picture
from tests.mllm.made.shard_files import picture_bytes

LISTS = {"llava150k": "llava_instruct_150k.json", "cc3m_595k": "chat.json", "pargocap": "list.json"}


def made(name, source, out):
    about = prepare(find(name), source, out, Options(), Form(), engine_of("local", 1))
    return about, json.loads((out / "data.json").read_text())


@pytest.mark.parametrize("name", LISTS)
def test_no_record_of_a_list_is_lost_for_its_id_and_none_has_anothers(name, tmp_path):
    source = tmp_path / "source"
    (source / "train2017").mkdir(parents=True)
    (source / "images").mkdir()
    for folder in ("train2017", "images"):
        noise_picture(20, 20).save(source / folder / "a.jpg")
    ids = ["a-2", "a", "a", "a", "a-3", "a-2", None, "row-6", 7, "7", "7"]
    said = [[{"from": "human", "value": "<image>"}, {"from": "gpt", "value": f"answer {n}"}] for n in range(len(ids))]
    rows = [{"id": id, "image": "a.jpg", "conversations": turns} for id, turns in zip(ids, said, strict=True)]
    (source / LISTS[name]).write_text(json.dumps(rows))
    about, records = made(name, source, tmp_path / "out")
    assert about["records"] == len(ids)
    assert [record["conversations"][1]["value"] for record in records] == [f"answer {number}" for number in range(len(ids))]
    known = ["a-2", "a", "a-3", "a-4", "a-3-2", "a-2-2", "row-6", "row-6-2", "7", "7-2", "7-3"]
    assert [record["id"] for record in records] == known


def test_of_two_entries_of_one_id_the_first_is_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "PER_PIECE", 3)
    (tmp_path / "source").mkdir()
    entries = [Entry(id, None, turns([("what?", str(number))], picture=False)) for number, id in enumerate("abcabdeca")]
    listed = DataSet("listed", "Listed", COARSE, "", (), "", "", lambda files, options: iter(entries))
    about = prepare(listed, tmp_path / "source", tmp_path / "out", Options(), Form(), engine_of("local", 1))
    records = json.loads((tmp_path / "out" / "data.json").read_text())
    assert {record["id"]: record["conversations"][1]["value"] for record in records} == dict(zip("abcde", "01256", strict=True))
    assert about["skipped"] == {"entries whose id an earlier one has": 4}


def test_samples_of_a_tar_in_two_folders_are_told_apart(tmp_path):
    (tmp_path / "source").mkdir()
    with tarfile.open(tmp_path / "source" / "0.tar", "w") as tar:
        for key in ("a", "sub/a", "./b"):
            for suffix, content in {"jpg": picture_bytes(3, "JPEG"), "txt": f"caption of {key}".encode()}.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    about, records = made("webdataset", tmp_path / "source", tmp_path / "out")
    assert {record["id"]: record["conversations"][1]["value"] for record in records} == {
        "0/a": "caption of a",
        "0/sub/a": "caption of sub/a",
        "0/b": "caption of ./b",
    }
    assert Counter(about["skipped"]) == {}
