"""Forms of sets of captions beside those of :mod:`tests.mllm.made.official`, and hostile ones."""

from __future__ import annotations

import builtins
import io
import json
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pargo_mllm.data.preparation import run
from pargo_mllm.data.preparation.data_set import Options, PreparationError
from pargo_mllm.data.preparation.run import Form, prepare
from pargo_mllm.data.preparation.sets import find
from pargo_mllm.errors import UserError
from pargo_mllm.jobs import engine_of
from tests.mllm.made.official import write
from tests.mllm.made.official.serving import anywhere, served
from tests.mllm.made.shard_files import PICTURE, picture_bytes

TURNS = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "that"}]


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def made(name, source, split=None, out="out"):
    form = Form(fetch=True)
    return prepare(find(name), source, source.parent / out, Options(split=split), form, engine_of("local", 1), anywhere)


def records(source, out="out"):
    return json.loads((source.parent / out / "data.json").read_text())


def answers(source):
    return [record["conversations"][1]["value"] for record in records(source)]


def write_tar(file, members):
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_sbu_line_by_line(source):
    addresses = [served(picture_bytes(number)) for number in range(3)]
    (source / "SBU_captioned_photo_dataset_urls.txt").write_text("\n".join(addresses) + "\n")
    captions = source / "SBU_captioned_photo_dataset_captions.txt"
    captions.write_bytes(b"first \r\nno \xff UTF-8\nlast\n")
    about = made("sbu", source)
    assert (about["entries"], about["records"]) == (3, 2)
    assert answers(source) == ["first", "last"]
    captions.write_text("first\n")
    with pytest.raises(PreparationError, match="there are 1 captions and more addresses"):
        made("sbu", source, out="another")


def test_the_validation_part_of_cc3m(source):
    (source / "Validation_GCC-1.1.0-Validation.tsv").write_text(f"a caption\t{served(PICTURE)}\n")
    with pytest.raises(UserError, match=r"has no Train_GCC-training\.tsv .*there lies Validation_GCC"):
        made("cc3m", source)
    made("cc3m", source, "validation", "validation")
    assert [record["id"] for record in records(source, "validation")] == ["GCC_val_000000000"]


def test_a_picture_in_parquet_as_the_hub_keeps_it(source):
    rows = [
        {"image": {"bytes": picture_bytes(number), "path": f"{number}.png"}, "Text": f"text {number}"} for number in range(70)
    ]
    rows[7]["image"] = {"bytes": None, "path": "/etc/passwd"}
    rows[8]["image"] = None
    (source / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), source / "data" / "train-00000-of-00001.parquet", row_group_size=40)
    about = made("laion", source)
    assert about["skipped"] == {"pictures of which the parquet file has no bytes": 2}
    assert "sha256" not in about["made_of"][0]
    for record in records(source):
        number = int(record["id"].rpartition("/")[2])
        assert record["conversations"][1]["value"] == f"text {number}"
        assert (source.parent / "out" / "images" / record["image"]).read_bytes() == picture_bytes(number)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"url": ["http://a/b"]}, "has no column of captions"),
        ({"caption": ["a"]}, "has neither a column of pictures"),
        ({"caption": [["a list"]], "url": ["http://a/b"]}, "none can be a record"),
        ({"caption": ["a"], "url": [b"bytes"]}, "none can be a record"),
        ({"caption": ["a"], "image": [7]}, "none can be a record"),
        ({"caption": ["a"], "image": ["a text"]}, "none can be a record"),
    ],
)
def test_columns_of_another_kind_are_said(columns, said, source):
    pq.write_table(pa.table(columns), source / "a.parquet")
    with pytest.raises(PreparationError, match=said):
        made("laion", source)


def test_what_only_tells_of_shards_leads_to_them(source):
    pq.write_table(pa.table({"caption": ["a"], "url": ["http://a/b"], "key": ["0"]}), source / "00000.parquet")
    write_tar(source / "00000.tar", [("0.jpg", PICTURE), ("0.txt", b"a")])
    with pytest.raises(PreparationError, match="prepare webdataset in place of laion"):
        made("laion", source)


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"no parquet at all", "cut", "flipped"])
def test_damaged_parquet_is_said(damage, source):
    file = source / "a.parquet"
    pq.write_table(pa.table({"TEXT": [f"text {number}" for number in range(500)], "URL": ["http://a/b"] * 500}), file)
    whole = file.read_bytes()
    if damage == "flipped":
        damage = whole[:40] + bytes(255 - byte for byte in whole[40:200]) + whole[200:]
    file.write_bytes(whole[: len(whole) // 2] if damage == "cut" else damage)
    with pytest.raises(UserError, match=r"a\.parquet.* cannot be read|none can be a record"):
        made("laion", source)


def test_parquet_without_pyarrow_says_what_to_install(source, monkeypatch):
    pq.write_table(pa.table({"TEXT": ["a"], "URL": ["http://a/b"]}), source / "a.parquet")
    real = builtins.__import__

    def absent(name, *arguments, **options):
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"pip install 'pargo\[data\]'"):
        made("laion", source)


def test_members_of_a_tar_lead_nowhere(source):
    members = [("../../evil.jpg", PICTURE), ("../../evil.txt", b"up"), ("/etc/evil.jpg", PICTURE), ("/etc/evil.txt", b"down")]
    write_tar(source / "a.tar", members)
    with tarfile.open(source / "b.tar", "w") as tar:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        text = tarfile.TarInfo("link.txt")
        text.size = 1
        tar.addfile(text, io.BytesIO(b"a"))
    before = set(source.parent.rglob("*"))
    about = made("webdataset", source)
    assert (about["entries"], about["records"]) == (3, 2)
    assert {record["image"] for record in records(source)} == {"a/00000000.png", "a/00000001.png"}
    new = set(source.parent.rglob("*")) - before
    assert all((source.parent / "out") in (path, *path.parents) for path in new)


@pytest.mark.parametrize("damage", ["cut", "packed", "none"])
def test_a_damaged_shard_is_named(damage, source):
    write_tar(source / "a.tar", [("0.jpg", PICTURE), ("0.txt", b"a")])
    content = (source / "a.tar").read_bytes()
    told = {"cut": content[:700], "packed": b"\x1f\x8b\x08" + content, "none": b""}[damage]
    (source / "b.tar").write_bytes(told)
    with pytest.raises(UserError, match=r"b\.tar cannot be read as a tar shard"):
        made("webdataset", source)


def test_conversations_in_a_shard_stay_what_they_are(source):
    turns = [*TURNS, {"from": "human", "value": "and?"}, {"from": "gpt", "value": "this"}]
    record = {"conversations": turns, "caption": "not asked for"}
    write_tar(source / "a.tar", [("0.jpg", PICTURE), ("0.json", json.dumps(record).encode())])
    made("webdataset", source)
    assert records(source)[0]["conversations"] == turns


HOSTILE = [
    None,
    7,
    "text",
    [],
    {},
    {"conversations": None},
    {"conversations": []},
    {"conversations": [None, 7]},
    {"conversations": [{"from": "human"}, {"value": "x"}]},
    {"conversations": TURNS},
    {"conversations": TURNS, "image": None},
    {"conversations": TURNS, "image": ["a.png", "a.png"]},
    {"conversations": TURNS, "image": 7},
    {"conversations": TURNS, "image": {"a": "b"}},
    {"conversations": TURNS, "image": ""},
    {"conversations": TURNS, "image": "../a.png"},
    {"conversations": TURNS, "image": "/etc/passwd"},
    {"conversations": TURNS, "image": "http://example.com/a.png"},
    {"conversations": TURNS, "image": "half \ud83d.png"},
    {"conversations": TURNS, "image": "nul\0.png"},
    {"conversations": TURNS[::-1], "image": "a.png"},
    {"conversations": TURNS, "image": "a.png", "video": "a.mp4"},
    {"conversations": [TURNS[0], {"from": "gpt", "value": "half \ud83d"}], "image": "a.png"},
    {"id": "half \ud83d", "conversations": TURNS, "image": "a.png"},
]


@pytest.mark.parametrize("name", ["cc3m_595k", "sharegpt4v", "pargocap"])
def test_hostile_records_are_counted(name, source):
    good = {"id": ["no id"], "image": "a.png", "conversations": TURNS}
    rows = [*HOSTILE, good, {**good, "id": 5}, {**good, "id": "5"}, {**good, "id": float("nan")}, {**good, "id": None}]
    file = {"cc3m_595k": "chat.json", "sharegpt4v": "sharegpt4v_instruct_gpt4-vision_cap100k.json"}.get(name, "a.json")
    (source / file).write_text(json.dumps(rows))
    (source / "a.png").write_bytes(PICTURE)
    about = made(name, source)
    # a list with one name is a name; all others of the hostile ones are left out
    assert (about["entries"], about["records"]) == (len(rows), 5)
    ids = [record["id"] for record in records(source)]
    assert len(set(ids)) == 5
    assert "5" in ids


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe[\x00]\x00", b"[" * 100_000, b'[{"image": 1e999}', b'{"image": "a.png"}', b"null", b"[1, 2", b"\x00" * 100],
)
@pytest.mark.parametrize(("name", "file"), [("pargocap", "a.json"), ("sbu", "sbu-captions-all.json")])
def test_what_is_no_list_is_said_in_one_line(name, file, content, source):
    (source / file).write_bytes(content)
    with pytest.raises(UserError) as raised:
        made(name, source)
    assert len(str(raised.value).splitlines()) == 1


def test_a_pipe_in_place_of_a_list_is_not_waited_for(source):
    os.mkfifo(source / "sbu-captions-all.json")
    with pytest.raises(UserError):
        made("sbu", source)


@pytest.mark.parametrize("name", ["coco_captions"])
@pytest.mark.parametrize("value", [None, 7, [1], {"a": 1}, True, "", 1e300, float("nan")])
def test_coco_with_values_of_any_kind(name, value, source):
    write(name, source)
    file = source / "annotations" / "captions_train2017.json"
    told = json.loads(file.read_text())
    good = dict(told["annotations"][0])
    told["annotations"] += [{**good, key: value} for key in good] + [value]
    told["images"] += [{**told["images"][0], key: value} for key in told["images"][0]] + [value]
    file.write_text(json.dumps(told))
    about = made(name, source)
    assert about["entries"] == about["records"] + sum(about["skipped"].values())


def test_several_lists_are_not_chosen_from(source):
    for name in ("a.json", "b.jsonl"):
        (source / name).write_text("[]")
    with pytest.raises(PreparationError, match=r"several lists: a\.json, b\.jsonl"):
        made("pargocap", source)


def test_lines_of_rows(source):
    (source / "images").mkdir()
    (source / "images" / "a.png").write_bytes(PICTURE)
    (source / "a.jsonl").write_text('{"image": "a.png", "caption": "one", "id": "x"}\nno JSON\n')
    about = made("pargocap", source)
    assert (about["entries"], about["records"]) == (2, 1)
    assert records(source)[0]["id"] == "x"


def test_columns_are_read_forwards_over_pieces(source, monkeypatch):
    monkeypatch.setattr(run, "PER_PIECE", 3)
    rows = [{"jpg": picture_bytes(number), "caption": f"text {number}"} for number in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), source / "a.parquet", row_group_size=4)
    made("laion", source)
    for number, record in enumerate(records(source)):
        assert (source.parent / "out" / "images" / record["image"]).read_bytes() == picture_bytes(number)


@pytest.mark.parametrize(("name", "suffix"), [("webdataset", "tar"), ("laion", "parquet")])
def test_all_damaged_files_are_named_at_once(name, suffix, source, tmp_path):
    (tmp_path / "good").mkdir()
    write(name, tmp_path / "good")
    good = next(path for path in sorted((tmp_path / "good").iterdir()) if path.suffix == f".{suffix}")
    (source / f"a.{suffix}").write_bytes(good.read_bytes()[:700])
    (source / f"b.{suffix}").write_bytes(good.read_bytes())
    (source / f"c.{suffix}").write_bytes(b"")
    with pytest.raises(UserError) as raised:
        made(name, source)
    said = str(raised.value)
    assert "2 of 3 files" in said
    assert all(f"{source / one}.{suffix}" in said for one in "ac")
    assert f"b.{suffix}" not in said
    assert len(said.splitlines()) == 1
    assert not (source.parent / "out").exists()
