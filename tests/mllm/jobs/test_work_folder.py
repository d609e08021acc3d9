"""One process at a time, and only the same job again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack

import pytest

from pargo_mllm.errors import UserError
from pargo_mllm.jobs import WorkFolder

SETTINGS = {"source": "here", "options": {"seed": 0, "parts": (1, 2)}}


def test_the_same_job_goes_on(tmp_path):
    for _ in range(2):
        with WorkFolder(tmp_path / "out", "prepare", SETTINGS).held() as work:
            (work / "piece").touch()
    assert (tmp_path / "out" / ".work" / "piece").exists()


def test_another_job_is_refused_and_says_what_differs(tmp_path):
    with WorkFolder(tmp_path, "prepare", SETTINGS).held() as work:
        (work / "piece").touch()
    other = {"source": "there", "options": {"seed": 0, "parts": [1, 3], "frame": "x" * 9000}}
    with pytest.raises(UserError) as raised, WorkFolder(tmp_path, "prepare", other).held():
        pass
    said = str(raised.value)
    assert 'begun with another frame (nothing, not "xxx' in said
    assert 'x…), parts ([1, 2], not [1, 3]), source ("here", not "there"); give the same' in said
    assert "seed" not in said
    assert len(said) < 500


def test_where_nothing_was_done_yet_another_job_of_its_kind_begins_anew(tmp_path):
    with WorkFolder(tmp_path, "prepare", SETTINGS).held() as work:
        (work / "empty").mkdir()
    with pytest.raises(UserError, match=r"another job .*options .*source "), WorkFolder(tmp_path, "caption", {}).held():
        pass
    with WorkFolder(tmp_path, "prepare", {"options": {}}).held() as work:
        assert json.loads((work / "settings.json").read_text()) == {"job": "prepare", "options": {}}


def test_only_what_a_job_of_the_kind_has_begun_is_begun(tmp_path):
    out, work = tmp_path / "out", tmp_path / "out" / ".work"
    assert WorkFolder.is_begun(out, "prepare")
    # killed before it wrote its settings
    work.mkdir(parents=True)
    (work / "lock").touch()
    assert WorkFolder.is_begun(out, "prepare")
    # an empty .work says nothing about what lies beside it, and notes in one are somebody's
    (out / "thesis.txt").touch()
    assert not WorkFolder.is_begun(out, "prepare")
    (out / "thesis.txt").rename(work / "thesis.txt")
    assert not WorkFolder.is_begun(out, "prepare")
    (work / "thesis.txt").rename(out / "thesis.txt")
    (work / "settings.json").write_text('{"job": "prepare"}')
    assert WorkFolder.is_begun(out, "prepare")
    assert not WorkFolder.is_begun(out, "caption")
    out.joinpath("file").touch()
    assert not WorkFolder.is_begun(out / "file", "prepare")


def test_another_process_is_refused_until_this_one_ends_or_dies(tmp_path):
    with WorkFolder(tmp_path, "prepare", SETTINGS).held(), pytest.raises(UserError, match="another process"):
        ExitStack().enter_context(WorkFolder(tmp_path, "prepare", SETTINGS).held())
    # a lock that a dead process leaves holds nobody up
    code = (
        f"import fcntl, os; fcntl.flock(os.open({str(tmp_path / '.work' / 'lock')!r}, os.O_RDWR), fcntl.LOCK_EX); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    with WorkFolder(tmp_path, "prepare", SETTINGS).held():
        pass


def test_a_folder_that_was_removed_meanwhile_is_nobodys(tmp_path, monkeypatch):
    """Between the opening of the lock and its taking, the process that had it removes the folder, its work done."""
    first = WorkFolder(tmp_path, "prepare", SETTINGS)
    flock = __import__("fcntl").flock

    def late(lock, how):
        first.remove()
        flock(lock, how)

    monkeypatch.setattr("pargo_mllm.jobs.work_folder.fcntl.flock", late)
    with pytest.raises(UserError, match="another process"):
        ExitStack().enter_context(first.held())


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", "null", '"text"', "[" * 100_000, "\udcff", json.dumps({"x": "y" * 2**21}), "folder", "pipe", "link"],
    ids=lambda text: text[:8] if text.isprintable() else "bytes",
)
def test_settings_that_cannot_be_read_are_never_taken_for_the_same(tmp_path, damage):
    file = tmp_path / "out" / ".work" / "settings.json"
    file.parent.mkdir(parents=True)
    make = {"folder": file.mkdir, "pipe": lambda: os.mkfifo(file), "link": lambda: file.symlink_to(tmp_path / "nowhere")}
    make.get(damage, lambda: file.write_bytes(damage.encode("utf-8", "surrogateescape")))()
    with pytest.raises(UserError, match=r"settings\.json is damaged"), WorkFolder(tmp_path / "out", "prepare", SETTINGS).held():
        pass


@pytest.mark.parametrize("what", ["file", "link", "folder"])
def test_where_nothing_can_be_written_says_so(tmp_path, what):
    out = tmp_path / "out"
    if what == "file":
        out.touch()
    else:
        (out / ".work").mkdir(parents=True)
        lock = out / ".work" / "lock"
        lock.symlink_to(tmp_path / "elsewhere") if what == "link" else lock.mkdir()
    with pytest.raises(UserError, match="cannot be"), WorkFolder(out, "prepare", SETTINGS).held():
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="everything may be written by root")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with (
        pytest.raises(UserError, match="cannot be written: Permission denied"),
        WorkFolder(tmp_path / "out", "prepare", {}).held(),
    ):
        pass
