"""Which pictures a path leads to, and that every other entry is counted."""

import io
import json
import os
import tarfile

import pytest
from PIL import Image

from pargo_mllm.captioning.captions.finding import find_pictures
from pargo_mllm.data.preparation.entries import Skipped
from pargo_mllm.errors import UserError


def picture(file, colour="red"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(file)


def found(path, **how):
    """([names], {name: reason})"""
    names, skipped = [], {}
    for entry in find_pictures(path, **how).entries():
        if isinstance(entry, Skipped):
            skipped[entry.id] = entry.reason
        else:
            names.append(entry.id)
    return names, skipped


def test_a_folder_with_all_below_it(tmp_path):
    root = tmp_path / "pictures"
    for name in ("b.png", "a.JPG", "deep/er/c.webp", "deep/d.png"):
        picture(root / name)
    (root / "notes.txt").write_text("x")
    (root / ".hidden").mkdir()
    picture(root / ".hidden" / "e.png")
    os.symlink(root, root / "again")
    picture(tmp_path / "elsewhere.png")
    os.symlink(tmp_path / "elsewhere.png", root / "linked.png")
    os.mkfifo(root / "pipe.png")
    (root / os.fsdecode(b"\xff.png")).write_bytes(b"")
    names, skipped = found(root)
    assert names == ["a.JPG", "b.png", "linked.png", "pipe.png", "deep/d.png", "deep/er/c.webp"]
    assert {name: reason.split()[0] for name, reason in skipped.items()} == {
        ".hidden": "hidden",
        "again": "folders",
        "notes.txt": "files",
        "'\\udcff.png'": "names",
    }


def test_a_list_of_names(tmp_path):
    lines = ["a.png", "", "sub/b.png\r", "../out.png", "/etc/passwd", "a.png", "ä.png", "x" * 300]
    lines += ["./a.png", "sub//b.png", " padded.png\t", "there .png ", "./"]
    (tmp_path / "there .png ").write_bytes(b"")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode() + b"\n\xff\xfe.png")
    names, skipped = found(tmp_path / "list.txt")
    assert names == ["a.png", "sub/b.png", "ä.png", "padded.png", "there .png "]
    assert len(skipped) == 7
    assert skipped["../out.png"] == skipped["/etc/passwd"] == "names that lead out of the folder, or are none"
    assert skipped["a.png"] == "names that stood there before"


@pytest.mark.parametrize("form", ["list", "lines", "folder"])
def test_the_pictures_of_training_data_are_each_described_once(tmp_path, form):
    turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "this"}]
    records = [
        {"id": "1", "image": "a.png", "conversations": turns},
        {"id": "2", "image": "a.png", "conversations": turns},
        {"id": "3", "image": ["b.png", "c.png"], "conversations": turns},
        {"id": "4", "conversations": turns},
        {"id": "5", "image": 7},
        "no record",
        {"id": "\ud800", "image": "\ud800"},
        {"id": "6", "image": "../../d.png"},
    ]
    file = tmp_path / ("data.jsonl" if form == "lines" else "data.json")
    file.write_text("\n".join(map(json.dumps, records)) if form == "lines" else json.dumps(records))
    (tmp_path / "images").mkdir()
    place = tmp_path if form == "folder" else file
    names, skipped = found(place)
    assert names == ["a.png", "b.png", "c.png"]
    assert len(skipped) == 6
    assert find_pictures(place).files.root == tmp_path / "images"


def test_pictures_in_shards_need_no_text_beside_them(tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    for shard, members in (("000.tar", ("a.png", "a.txt", "b.png", "../c.png")), ("001.tar", ("a.png", "a.png"))):
        with tarfile.open(tmp_path / shard, "w") as tar:
            for name in members:
                member = tarfile.TarInfo(name)
                member.size = len(content.getvalue())
                tar.addfile(member, io.BytesIO(content.getvalue()))
    names, skipped = found(tmp_path)
    assert names == ["000/a.png", "000/b.png", "001/a.png"]
    assert set(skipped) == {"000/../c.png", "001/a.png"}
    assert found(tmp_path / "001.tar")[0] == ["001/a.png"]


def test_what_is_none_of_them(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "torn.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(UserError, match=r"missing.*does not exist; give"):
        find_pictures(tmp_path / "missing")
    with pytest.raises(UserError, match=r"torn\.tar cannot be read as a tar"):
        found(tmp_path / "torn.tar")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match=r"pipe\.txt.*no regular file"):
        found(tmp_path / "pipe.txt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="--image-root is for lists"):
        find_pictures(tmp_path / "folder", tmp_path)
