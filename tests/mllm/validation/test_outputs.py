"""Where findings and pages are written: over nothing that is looked at, and not as if a full disk had taken them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pargo_cli.main import main
from tests.mllm.made.command_line import ended
from tests.mllm.made.faulty_set import clean_set


@pytest.fixture
def made(tmp_path):
    made = clean_set(tmp_path / "set", 3)
    # something is found
    made.records[1]["zebra"] = 1
    made.write()
    (made.folder / "about.json").write_text("{}")
    os.link(made.picture(1), tmp_path / "official.jpg")
    (tmp_path / "link.json").symlink_to(made.file)
    (tmp_path / "eval.json").write_text(json.dumps([{"question": "what?", "answer": "this"}]))
    (tmp_path / "mine.txt").write_text("kept")
    (tmp_path / "list.jsonl").write_text('{"id": 1}\n')
    return made


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("option", ["--html", "--findings"])
@pytest.mark.parametrize(
    "place", ["set/list.json", "set/about.json", "set/images/000001.jpg", "set/images/new", "link.json", "eval.json"]
)
def test_what_is_looked_at_is_not_written_over(option, place, made, tmp_path, capsys):
    before = contents(tmp_path)
    words = ["validate", made.file, "--against", tmp_path / "eval.json", "--processes", 1]
    done = ended(capsys, *words, option, tmp_path / place)
    assert (done.status, contents(tmp_path)) == (2, before)
    assert option in done.said


@pytest.mark.parametrize("place", ["mine.txt", "list.jsonl", "official.jpg"])
def test_findings_replace_findings_alone(place, made, tmp_path, capsys):
    before = contents(tmp_path)
    assert ended(capsys, "validate", made.file, "--findings", tmp_path / place, "--processes", 1).status == 2
    assert contents(tmp_path) == before
    for _ in range(2):
        assert ended(capsys, "validate", made.file, "--findings", tmp_path / "found", "--processes", 1).status == 0
    (found,) = map(json.loads, (tmp_path / "found").read_text().splitlines())
    assert (found["kind"], found["number"]) == ("unknown_key", 1)


def test_a_folder_of_data_takes_no_report(made, capsys):
    done = ended(capsys, "validate", made.folder, "--html", made.folder / "images" / "page.html", "--processes", 1)
    assert (done.status, list(made.folder.glob("images/page.html"))) == (2, [])


def test_a_device_is_written_to_and_not_replaced(made, capsys):
    done = ended(capsys, "validate", made.file, "--findings", "/dev/full", "--processes", 1)
    assert (done.status, "No space left" in done.said) == (2, True)
    assert ended(capsys, "validate", made.file, "--html", "/dev/full", "--processes", 1).status == 2
    assert not os.path.isfile("/dev/full")


@pytest.mark.parametrize("words", [["data", "list"], ["validate", "set/list.json", "--processes", "1"]])
def test_what_cannot_be_printed_is_no_success(words, made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with open("/dev/full", "w") as full, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", full)
        assert main(words) == 2
    assert "No space left" in capsys.readouterr().err
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as unread, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", unread)
        assert main(words) == 141


def test_the_help_that_cannot_be_printed_is_no_success():
    command = [sys.executable, "-m", "pargo_mllm", "--help"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "No space left" in done.stderr
