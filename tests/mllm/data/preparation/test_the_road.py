"""From official files to records: kills, processes, full disks, sources that change, names that clash."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import resource
import signal
import socket
import sys
import zipfile
from pathlib import Path

import pytest

from pargo_cli.main import main
from pargo_mllm.data.fetching import NO_ADDRESS, NOT_PUBLIC, UNREACHABLE
from pargo_mllm.data.frames import TRAINING
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.preparation import fetched, run
from pargo_mllm.data.preparation.data_set import COARSE, DataSet, Need, Options, PreparationError
from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped, turns
from pargo_mllm.data.preparation.official_files import MissingFile, OfficialFiles
from pargo_mllm.data.preparation.run import Form, prepare
from pargo_mllm.data.preparation.sets import find
from pargo_mllm.errors import UserError
from pargo_mllm.jobs import engine_of
from tests.mllm.made.forked import own_bars
from tests.mllm.made.official import write
from tests.mllm.made.official.serving import ASKED, anywhere, served
from tests.mllm.made.photographs import noise_picture

COCO = find("coco_captions")
SHARDS = Form(per_shard=7)
ON_DISK = ("open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    write("coco_captions", tmp_path / "source")
    return tmp_path / "source"


def made(source, out, form=None, data_set=COCO, processes=1, may_connect=anywhere):
    return prepare(data_set, source, out, Options(), form or Form(), engine_of("local", processes), may_connect)


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_a_fork(work):
    """Exit status of ``work`` in a process of its own; negative for a signal."""
    child = os.fork()
    if not child:
        own_bars()
        status = 1
        try:
            with open(os.devnull, "w") as sys.stderr:
                work()
            status = 0
        except UserError:
            status = 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(step, work, out):
    """Do ``work`` and kill -9 the process as it touches a file of ``out`` for the so-many-th time."""

    def hook(event, arguments):
        nonlocal step
        if event in ON_DISK and str(out) in str(arguments[0]):
            step -= 1
            if not step:
                os.kill(os.getpid(), signal.SIGKILL)

    def watched():
        sys.addaudithook(hook)
        work()

    return in_a_fork(watched)


def noise(seed):
    content = io.BytesIO()
    noise_picture(8, 8, seed).save(content, "PNG")
    return content.getvalue()


def listed(entries, root, needs=()):
    """A set of these entries, which ``root`` knows nothing of."""
    return DataSet("listed", "Listed", COARSE, "", needs, "", "", lambda files, options: iter(entries))


def told(number, picture):
    return Entry(str(number), picture, turns([("what?", f"answer {number}")]))


@pytest.mark.parametrize("form", [Form(copy=True), SHARDS], ids=["list", "shards"])
def test_killed_three_times_at_any_moment_it_gives_the_same_bytes(form, source, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "PER_PIECE", 7)
    made(source, tmp_path / "whole", form)
    chance, kills = random.Random(0), 0
    for number in range(5):
        out = tmp_path / f"out{number}"
        for _ in range(3):
            # what a killed run did makes the next one shorter
            kills += killed_at(chance.randrange(1, 80), lambda out=out: made(source, out, form), out) == -signal.SIGKILL
        if not (out / "about.json").exists() or (out / ".work").exists():
            made(source, out, form)
        assert tree(out) == tree(tmp_path / "whole")
    assert kills > 8


@pytest.mark.parametrize("form", [Form(), SHARDS], ids=["list", "shards"])
def test_whoever_comes_to_a_piece_first_the_bytes_are_the_same(form, source, tmp_path, monkeypatch):
    class Backwards:
        workers = 1

        def map(self, work, pieces, title=None):
            yield from reversed([work(piece) for piece in reversed(pieces)])

    monkeypatch.setattr(run, "PER_PIECE", 7)
    made(source, tmp_path / "forwards", form)
    prepare(COCO, source, tmp_path / "backwards", Options(), form, Backwards())
    assert tree(tmp_path / "forwards") == tree(tmp_path / "backwards")


# each process imports for seconds
@pytest.mark.long
@pytest.mark.parametrize("form", [Form(), SHARDS], ids=["list", "shards"])
def test_processes_give_the_same_bytes(form, source, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "PER_PIECE", 7)
    for processes in (1, 3):
        made(source, tmp_path / str(processes), form, processes=processes)
    assert tree(tmp_path / "1") == tree(tmp_path / "3")


def test_a_full_disk_is_said_and_the_rerun_goes_on(source, tmp_path):
    def write_little():
        # bytes of a file; two of the pictures have fewer
        resource.setrlimit(resource.RLIMIT_FSIZE, (3500, 3500))
        made(source, tmp_path / "out", Form(copy=True))

    assert in_a_fork(write_little) == 2
    assert not (tmp_path / "out" / "about.json").exists()
    made(source, tmp_path / "out", Form(copy=True))
    made(source, tmp_path / "whole", Form(copy=True))
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_folder_that_cannot_be_made_is_said(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        made(source, tmp_path / "file" / "out")


def test_pictures_are_linked_unless_copies_are_asked_for(source, tmp_path):
    made(source, tmp_path / "linked")
    made(source, tmp_path / "copied", Form(copy=True))
    name = "train2017/000000000000.jpg"
    linked, copied = (os.stat(tmp_path / out / "images" / name) for out in ("linked", "copied"))
    assert linked.st_ino == os.stat(source / name).st_ino != copied.st_ino
    # but for how the pictures came there, it is the same
    assert tree(tmp_path / "linked") == tree(tmp_path / "copied")


def test_a_link_among_the_pictures_becomes_the_picture_and_no_link(source, tmp_path):
    picture = source / "train2017" / "000000000000.jpg"
    picture.rename(source / "elsewhere.jpg")
    picture.symlink_to(source / "elsewhere.jpg")
    made(source, tmp_path / "out")
    assert (tmp_path / "out" / "images" / "train2017" / "000000000000.jpg").is_file()
    assert not (tmp_path / "out" / "images" / "train2017" / "000000000000.jpg").is_symlink()


def test_a_file_that_is_a_link_out_of_the_source_is_left_out_and_a_folder_that_is_one_is_not(source, tmp_path):
    """Whoever sent the files may mean a private one by a link; a linked folder the user made."""
    (source / "train2017").rename(tmp_path / "train2017")
    (source / "train2017").symlink_to(tmp_path / "train2017")
    records = made(source, tmp_path / "before", Form(copy=True))["records"]
    picture = source / "train2017" / "000000000000.jpg"
    picture.rename(tmp_path / "private.jpg")
    picture.symlink_to(tmp_path / "private.jpg")
    about = made(source, tmp_path / "out")
    assert 0 < about["records"] < records
    assert about["skipped"]["pictures that are links out of the folder"] == records - about["records"]
    assert not (tmp_path / "out" / "images" / "train2017" / "000000000000.jpg").exists()
    assert (tmp_path / "private.jpg").stat().st_nlink == 1


def test_annotations_that_change_between_two_runs_are_refused(source, tmp_path):
    out = tmp_path / "out"
    # planned, and killed before the first record
    for step in range(1, 60):
        killed_at(step, lambda: made(source, out), out)
        if (out / ".work" / "planned.json").exists():
            break
    file = source / "annotations" / "captions_train2017.json"
    file.write_text(file.read_text().replace("caption 1 of", "CAPTION 1 of"))
    with pytest.raises(PreparationError, match=r"captions_train2017\.json is not what it was when .*out was begun"):
        made(source, out)


def test_another_picture_of_the_same_name_is_counted_and_never_shown(source, tmp_path):
    for number, folder in enumerate(("a", "b", "c")):
        (source / folder).mkdir()
        noise_picture(20, 20, number).save(source / folder / "1.png")
    entries = [
        told(0, Picture.file("a/1.png", "x/1.png")),
        told(1, Picture.file("b/1.png", "x/1.png")),
        # the same picture again, spelled in another way, is no other
        told(2, Picture.file("a//1.png", "x/./1.png")),
        # a disk may take them for one
        told(3, Picture.file("c/1.png", "X/1.PNG")),
        told(4, Picture.file("c/1.png", "x/2.png")),
    ]
    about = made(source, tmp_path / "out", data_set=listed(entries, source))
    assert about["skipped"] == {"pictures with the name of another one (upper and lower case are one)": 2}
    records = {record["id"]: record for record in json.loads((tmp_path / "out" / "data.json").read_text())}
    assert records.keys() == {"0", "2", "4"}
    for id, file in (("0", "a/1.png"), ("2", "a/1.png"), ("4", "c/1.png")):
        assert (tmp_path / "out" / "images" / records[id]["image"]).read_bytes() == (source / file).read_bytes()


def test_clashes_are_the_same_whoever_comes_first(source, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "PER_PIECE", 1)
    for number in range(3):
        noise_picture(20, 20, number).save(source / f"{number}.png")
    entries = [told(number, Picture.file(f"{number % 3}.png", "one.png")) for number in range(9)]
    made(source, tmp_path / "out", data_set=listed(entries, source))
    records = json.loads((tmp_path / "out" / "data.json").read_text())
    assert [record["id"] for record in records] == ["0", "3", "6"]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a\0b", "x" * 300, "half \ud83d.png", "", "d/" * 2000 + "e"])
def test_names_that_lead_nowhere_are_counted(name, source, tmp_path):
    noise_picture(20, 20).save(tmp_path / "secret.png")
    noise_picture(20, 20).save(source / "good.png")
    entries = [told(0, Picture.file("good.png")), told(1, Picture.file(name)), told(2, Picture("file", ("good.png",), name))]
    about = made(source, tmp_path / "out", data_set=listed(entries, source))
    assert (about["entries"], about["records"], sum(about["skipped"].values())) == (3, 1, 2)


def test_what_no_picture_can_be_is_counted_and_never_waited_for(source, tmp_path):
    os.mkfifo(source / "pipe.png")
    (source / "folder.png").mkdir()
    (source / "empty.png").write_bytes(b"")
    (source / "nowhere.png").symlink_to("nothing")
    (source / "round.png").symlink_to("round.png")
    noise_picture(20, 20).save(source / "good.png")
    names = ("good", "pipe", "folder", "empty", "nowhere", "round")
    entries = [told(number, Picture.file(f"{name}.png")) for number, name in enumerate(names)]
    about = made(source, tmp_path / "out", data_set=listed(entries, source))
    assert (about["records"], sum(about["skipped"].values())) == (1, 5)


def test_records_that_training_would_leave_out_are_counted_here(source, tmp_path):
    noise_picture(20, 20).save(source / "good.png")
    good = Picture.file("good.png")
    entries = [
        told(0, good),
        Entry("1", good, turns([("what?", "half \ud83d")])),
        Entry("half \ud83d", good, turns([("what?", "an answer")])),
        Entry("3", good, turns([("what?", "a second <image>")])),
        Entry("4", good, turns([("what?", "  ")])),
        Skipped("5", "a reason"),
    ]
    about = made(source, tmp_path / "out", data_set=listed(entries, source))
    assert (about["entries"], about["records"], sum(about["skipped"].values())) == (6, 1, 5)
    assert len(open_corpus(tmp_path / "out" / "data.json", 2)) == 1


def test_shards_of_pictures_with_odd_names_are_read_back(source, tmp_path):
    # the name of a member's suffix is what a reader finds it by
    for name in ("no suffix", "folder/none", "odd.weird"):
        (source / name).parent.mkdir(exist_ok=True)
        noise_picture(20, 20).save(source / name, "PNG")
    entries = [told(number, Picture.file(name)) for number, name in enumerate(("no suffix", "folder/none", "odd.weird"))]
    # and a shard in which nothing is
    entries = [*entries[:2], Skipped("a", "a reason"), Skipped("b", "a reason"), entries[2]]
    made(source, tmp_path / "out", Form(per_shard=2), listed(entries, source))
    corpus = open_corpus(tmp_path / "out", 2)
    assert len(corpus) == 3
    assert not corpus.skipped
    assert all(corpus[number].pictures[0]().size == (20, 20) for number in range(3))


def test_of_nothing_comes_an_error_with_the_reasons_and_no_folder(source, tmp_path):
    entries = [told(number, Picture("url", (served(b"x"),), f"{number}.{{suffix}}")) for number in range(3)]
    for form in (Form(), SHARDS):
        with pytest.raises(PreparationError, match=r"of 3 entries of .* none can be a record; 3 skipped: .*--fetch"):
            made(source, tmp_path / "out", form, listed(entries, source))
        assert not (tmp_path / "out").exists()
    with pytest.raises(PreparationError, match="of 0 entries"):
        made(source, tmp_path / "out", data_set=listed([], source))


def test_a_wrong_folder_is_no_beginning(source, tmp_path):
    (tmp_path / "wrong").mkdir()
    (tmp_path / "out").mkdir()
    with pytest.raises(MissingFile):
        made(tmp_path / "wrong", tmp_path / "out")
    made(source, tmp_path / "out")


def test_nothing_is_made_among_the_official_files_or_beside_something_else(source, tmp_path):
    before = tree(source)
    for out in (source, source / "deep" / "out"):
        with pytest.raises(PreparationError, match="lies in --src"):
            made(source, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(PreparationError, match="holds something else"):
        made(source, tmp_path / "mine")
    # of somebody else, or of another command
    for settings in (None, '{"job": "caption"}'):
        (tmp_path / "mine" / ".work").mkdir(exist_ok=True)
        if settings:
            (tmp_path / "mine" / ".work" / "settings.json").write_text(settings)
        with pytest.raises(PreparationError, match="holds something else"):
            made(source, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"
    made(source, tmp_path / "out")
    with pytest.raises(PreparationError, match="is prepared already"):
        made(source, tmp_path / "out")
    assert tree(source) == before


def test_a_missing_file_is_named_with_its_home_and_what_lies_there(source, tmp_path):
    (source / "annotations" / "captions_train2017.json").unlink()
    with zipfile.ZipFile(source / "annotations_trainval2017.zip", "w") as packed:
        packed.writestr("annotations/captions_train2017.json", "{}")
    with pytest.raises(MissingFile) as raised:
        made(source, tmp_path / "out")
    said = str(raised.value)
    assert "has no annotations/captions_train2017.json" in said
    assert "https://cocodataset.org" in said
    assert "train2017/" in said
    assert "annotations_trainval2017.zip holds annotations/captions_train2017.json: unpack it" in said


def test_lines_of_a_text_lose_their_ends_and_nothing_else(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"\xef\xbb\xbfone\r\ntwo\xff\n" + b"x" * (2**20 + 5) + b"\n\xe2\x80\xa8three \nlast")
    assert list(OfficialFiles(tmp_path).lines("a.tsv")) == ["one", None, None, "\u2028three ", "last"]


def test_mean_characters_and_sources_are_those_of_the_files(source, tmp_path):
    about = made(source, tmp_path / "out")
    captions = json.loads((source / "annotations" / "captions_train2017.json").read_text())["annotations"][:30]
    assert about["mean_characters"] == round(sum(len(one["caption"].strip()) for one in captions) / 30, 2)
    file = source / "annotations" / "captions_train2017.json"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert about["made_of"] == [{"name": "annotations/captions_train2017.json", "bytes": file.stat().st_size, "sha256": digest}]
    assert about["frame"] is None
    assert Options().frame == TRAINING


def test_nothing_is_fetched_twice_whenever_it_is_killed(source, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "PER_PIECE", 4)
    (tmp_path / "cc3m").mkdir()
    write("cc3m", tmp_path / "cc3m")
    made(tmp_path / "cc3m", tmp_path / "whole", Form(fetch=True), find("cc3m"))
    out = tmp_path / "out"
    kills = 0
    for step in (20, 30, 40, 50):
        kills += killed_at(step, lambda: made(tmp_path / "cc3m", out, Form(fetch=True), find("cc3m")), out) < 0
    kept = [path for path in (out / ".work" / "fetched").rglob("*") if path.is_file() and ".partial" not in path.name]
    before = ASKED.copy()
    made(tmp_path / "cc3m", out, Form(fetch=True), find("cc3m"))
    assert kills == 4
    assert kept
    # nine addresses: the last run asks for those that were not kept
    assert sum((ASKED - before).values()) == 9 - len(kept)
    assert tree(out) == tree(tmp_path / "whole")


def test_a_need_is_what_a_missing_file_is_called_by(tmp_path):
    files = OfficialFiles(tmp_path, (Need("a.json", "the captions", "https://example.org/a"),))
    with pytest.raises(
        MissingFile, match=r"has no a\.json nor b\.json \(the captions; https://example\.org/a\); there lies nothing"
    ):
        files.path("a.json", "b.json")
    with pytest.raises(MissingFile, match=r"has no \*\.tar \(https://example\.org/a\); there lies nothing"):
        files.ending(".tar")


def test_hidden_files_are_none(tmp_path):
    for name in (".hidden.tar", "b.tar", "a/c.TAR", "a/b/d.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert OfficialFiles(Path(tmp_path)).ending(".tar") == ["b.tar", "a/c.TAR"]


def test_a_network_that_is_down_stops_the_run_and_loses_nothing(source, tmp_path, monkeypatch):
    monkeypatch.setattr(fetched, "IN_A_ROW", 5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    addresses = [served(noise(number)) for number in range(3)] + [f"http://127.0.0.1:{port}/{number}" for number in range(9)]
    entries = [told(number, Picture("url", (address,), f"{number}.{{suffix}}")) for number, address in enumerate(addresses)]
    for _ in range(2):
        with pytest.raises(UserError, match=r"5 pictures in a row could not be fetched; the last are .*cannot be reached"):
            made(source, tmp_path / "out", Form(fetch=True), listed(entries, source))
    # what was there is kept, and what was not is asked for again when the network is back
    assert len([path for path in (tmp_path / "out" / ".work" / "fetched").rglob("*") if path.is_file()]) == 3
    monkeypatch.setattr(fetched, "IN_A_ROW", 50)
    about = made(source, tmp_path / "out", Form(fetch=True), listed(entries, source))
    assert about["skipped"] == {UNREACHABLE: 9}


def test_an_address_is_asked_once_however_many_records_have_it(source, tmp_path):
    address = served(noise(77))
    entries = [told(number, Picture("url", (address,), f"{number}.{{suffix}}")) for number in range(20)]
    made(source, tmp_path / "out", Form(fetch=True), listed(entries, source))
    assert ASKED["/" + address.rpartition("/")[2]] == 1


def test_addresses_of_this_machine_are_counted_from_the_command_line(source, tmp_path, capsys):
    (source / "Train_GCC-training.tsv").write_text(f"a caption\t{served(noise(78))}\nanother\tfile:///etc/passwd\n")
    asked = ASKED.total()
    assert main(["data", "prepare", "cc3m", "--src", str(source), "--out", str(tmp_path / "out"), "--fetch"]) == 2
    said = capsys.readouterr().err
    assert NOT_PUBLIC in said
    assert NO_ADDRESS in said
    assert ASKED.total() == asked
