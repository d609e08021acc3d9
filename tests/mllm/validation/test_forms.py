"""Shards and COCO-style folders are validated as lists are."""

from __future__ import annotations

import json

import pytest

from pargo_mllm.data.sources.shards import ShardCorpus, write_shards
from pargo_mllm.jobs import engine_of
from pargo_mllm.validation.division import part_of
from pargo_mllm.validation.run import validate
from pargo_mllm.validation.settings import Settings
from tests.mllm.made.command_line import ended
from tests.mllm.made.faulty_set import animated, blank, clean_set
from tests.mllm.made.photographs import write_photographs
from tests.mllm.made.shard_files import picture_bytes


def talk(*said, **more):
    turns = [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(said)]
    return json.dumps({"conversations": turns, **more}).encode()


SAMPLES = {
    "good": ({"jpg": picture_bytes(1, "JPEG"), "txt": b"a good caption"}, None),
    "several": ({"0.png": picture_bytes(2), "1.png": picture_bytes(3), "json": talk("<image><image> which", "that")}, None),
    "texts": ({"json": talk("no picture", "none")}, None),
    "messages": (
        {
            "png": picture_bytes(10),
            "json": b'{"messages": [{"role": "user", "content": "<image> a"}, {"role": "assistant", '
            b'"content": "b"}], "images": ["x.png"], "id": 7}',
        },
        None,
    ),
    "unlike": ({"png": picture_bytes(11), "json": b'{"url": "a"}'}, "no_turns"),
    "silent": ({"jpg": picture_bytes(4, "JPEG"), "txt": b" "}, "empty_answer"),
    "marks": ({"png": picture_bytes(5), "json": talk("what", "that one")}, "image_marks"),
    "spelling": ({"png": picture_bytes(6), "json": talk("<image> what", "this", framme="pixels")}, "misspelt_key"),
    "no-json": ({"png": picture_bytes(7), "json": b"{"}, "line_broken"),
    "latin": ({"png": picture_bytes(8), "txt": b"caf\xe9"}, "invalid_utf8"),
    "broken": ({"jpg": b"<html>", "txt": b"a broken picture"}, "picture_broken"),
    "none": ({"jpg": b"", "txt": b"an empty picture"}, "picture_empty"),
    "cut": ({"png": picture_bytes(9)[:-60], "txt": b"a cut picture"}, "picture_truncated"),
    "small": ({"png": blank(2, 9), "txt": b"a small picture"}, "picture_small"),
    "moving": ({"gif": animated("GIF"), "txt": b"a moving picture"}, "picture_animated"),
    "again": ({"jpg": picture_bytes(1, "JPEG"), "txt": b"a good caption"}, "duplicate_record"),
    "box": ({"png": blank(30, 20), "json": talk("<image> where", "[0.1,0.1,1.4,0.5]", frame="picture")}, "box_outside"),
}


@pytest.fixture
def shards(tmp_path):
    write_shards(((key, members) for key, (members, _) in SAMPLES.items()), tmp_path / "shards", per_shard=6)
    return tmp_path / "shards"


def test_faults_in_shards(shards):
    found = []
    report = validate(part_of(shards), Settings(), engine_of("local", 1), found.append, None)
    assert {(one.kind, one.id) for one in found} - {("several_forms", None)} == {
        (kind, key) for key, (_, kind) in SAMPLES.items() if kind
    }
    assert report.samples == len(SAMPLES) == len(ShardCorpus(shards))
    unread = 0
    corpus = ShardCorpus(shards)
    for index in range(len(corpus)):
        try:
            for opens in corpus[index].pictures:
                opens()
        except ValueError:
            unread += 1
    # what training cannot read of them: records, and pictures
    assert report.samples - report.usable + sum(report.unreadable.values()) == unread


def test_a_shard_that_is_none_is_named_and_the_others_are_read(shards, capsys):
    (shards / "000001.tar").write_bytes((shards / "000001.tar").read_bytes()[:700])
    (shards / "000001.tar.index").unlink(missing_ok=True)
    told = json.loads(ended(capsys, "validate", shards, "--json", "--processes", 1).printed)
    (broken,) = [one for one in told["findings"] if one["kind"] == "shard_broken"]
    assert (broken["examples"][0]["file"], told["samples"], told["complete"]) == ("000001.tar", len(SAMPLES) - 6, False)


def test_a_folder_of_photographs(tmp_path, capsys):
    write_photographs(tmp_path / "coco")
    done = ended(capsys, "validate", tmp_path / "coco", "--json", "--processes", 1)
    told = json.loads(done.printed)
    assert {one["kind"]: one["count"] for one in told["findings"]} == {"picture_broken": 1}
    assert (told["samples"], done.status) == (7, 1)
    assert told["findings"][0]["examples"][0]["id"] == "3.jpg"


def test_a_prepared_folder_is_its_list(tmp_path, capsys):
    made = clean_set(tmp_path / "out", 5)
    made.write().rename(tmp_path / "out" / "data.json")
    (tmp_path / "out" / "about.json").write_text("{}")
    told = json.loads(ended(capsys, "validate", tmp_path / "out", "--json", "--processes", 1).printed)
    assert (told["samples"], told["findings"]) == (5, [])
