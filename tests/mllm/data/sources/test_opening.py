"""Names and links that strangers wrote, and where they lead."""

import json
import ntpath
import posixpath
import tarfile
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pargo_mllm.data.pictures import decode_picture
from pargo_mllm.data.sources.coco import FolderError, read_coco_folder
from pargo_mllm.data.sources.opening import leads_inside, leads_out, read_whole
from pargo_mllm.data.sources.shards import ShardCorpus
from tests.mllm.made.shard_files import picture_bytes


@pytest.mark.parametrize(
    "name",
    ["a.png", "b/a.png", "./a.png", "b/./a.png", "..a", "a..b/c..", "a\\b.png", "ab:c.png", "ä/ü.png", " ", "CON", "~/a"],
)
def test_names_of_files_below(name):
    assert leads_inside(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/", "/a", "//host/a", "../a", "a/..", "a/../b", "a/../../b", "a/", "a\0b", "a\ud800", "n" * 256),
        *(
            "./\\",
            ".\\.",
            "C:\\a.png",
            "c:/a.png",
            "c:a",
            "x:",
            "\\a",
            "\\\\host\\a",
            "..\\a",
            "a\\..\\..\\b",
            "a/..\\b",
            "a/" * 3000 + "b",
        ),
    ],
)
def test_names_that_lead_elsewhere(name):
    assert not leads_inside(name)


@given(st.lists(st.sampled_from(["a", "..", ".", "", "b.png", "ü", "\\", "C:", "~"]), min_size=1, max_size=6).map("/".join))
def test_no_name_that_leads_inside_leads_out(name):
    """As the operating system joins them, and as Windows would."""
    if leads_inside(name):
        for path, folder in ((posixpath, "/data/images"), (ntpath, "D:\\data\\images")):
            joined = path.normpath(path.join(folder, name))
            assert joined.startswith(path.join(folder, "")), joined


def test_links(tmp_path):
    folder, other = tmp_path / "images", tmp_path / "images2"
    for made in (folder / "sub", other):
        made.mkdir(parents=True)
        (made / "a.png").write_bytes(b"x")
    (folder / "in.png").symlink_to(folder / "sub" / "a.png")
    (folder / "up.png").symlink_to("../images/sub/a.png")
    (folder / "out.png").symlink_to(other / "a.png")
    (folder / "far").symlink_to(other)
    (folder / "chain.png").symlink_to("far/a.png")
    (folder / "nowhere.png").symlink_to("/missing/file.png")
    (folder / "loop.png").symlink_to("loop.png")
    (tmp_path / "whole").symlink_to(folder)
    names = {
        **dict.fromkeys(("sub/a.png", "in.png", "up.png", "missing.png", "loop.png", ""), False),
        **dict.fromkeys(("out.png", "far", "far/a.png", "chain.png", "nowhere.png"), True),
    }
    # the folder may be a link itself
    for root in (folder, tmp_path / "whole"):
        assert {name: leads_out(root, root / name) for name in names} == names
    assert leads_out(folder, other / "a.png"), "its name only begins like the folder's"


def test_members_of_a_tar_open_nothing(tmp_path):
    """Their names, and those in their texts, are names alone; links among them are left out."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture_bytes(0))
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as tar:
        for folder in ("../", "/", f"{tmp_path}/", ""):
            record = {
                "image": str(secret),
                "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}],
            }
            for suffix, content in (("png", picture_bytes(1)), ("json", json.dumps(record).encode())):
                member = tarfile.TarInfo(f"{folder}x.{suffix}")
                member.size = len(content)
                tar.addfile(member, BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"link{kind[0]}.png")
            link.type, link.linkname = kind, str(secret)
            tar.addfile(link)
            member = tarfile.TarInfo(f"link{kind[0]}.txt")
            member.size = 1
            tar.addfile(member, BytesIO(b"x"))
    before = {path for path in tmp_path.rglob("*") if path.suffix != ".index"}
    corpus = ShardCorpus(tmp_path / "shards")
    assert len(corpus) == 4
    assert corpus.tallies["samples"].skipped == {"samples with a member that is no regular file (a link, a sparse file)": 2}
    shown = {corpus[index].pictures[0]().tobytes() for index in range(4)}
    assert shown == {decode_picture(picture_bytes(1), "x").tobytes()}
    assert {path for path in tmp_path.rglob("*") if path.suffix != ".index"} == before


def test_files_too_large_to_be_read_whole(tmp_path):
    (tmp_path / "images").mkdir()
    with open(tmp_path / "captions.json", "wb") as file:
        file.write(b"{")
        file.truncate(2**40)
    with pytest.raises(OSError, match=r"captions\.json has 1,099,511,627,776 bytes; at most 2,147,483,648 are read whole"):
        read_whole(tmp_path / "captions.json")
    with pytest.raises(FolderError, match=r"captions\.json cannot be read as JSON: .*at most"):
        read_coco_folder(tmp_path)
    (tmp_path / "a").write_bytes(b"12345")
    assert read_whole(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="at most 4 are read"):
        read_whole(tmp_path / "a", 4)
