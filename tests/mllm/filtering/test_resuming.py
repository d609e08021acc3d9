"""A filtering that is killed goes on where it was, and comes to the same bytes, as it does over several processes."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pargo_cli.main import main
from pargo_mllm.filtering import scoring
from tests.mllm.made.command_line import ended
from tests.mllm.made.forked import own_bars
from tests.mllm.made.photographs import noise_picture
from tests.mllm.made.similarity_models import of_kind
from tests.mllm.made.similarity_pairs import write_list


@pytest.fixture
def words(tmp_path):
    """Of a command over a hundred pairs, without --out."""
    of_kind("clip", tmp_path / "clip")
    pairs = [(noise_picture(40, 40 + n % 7, n), f"a big red dog {n}. the cat of {n % 9}.") for n in range(96)]
    write_list(tmp_path / "data", pairs)
    return ["filter", tmp_path / "data", "--model", tmp_path / "clip", "--quantile", "0.4", "--even-so", "--batch-size", "4"]


ONE = ("--processes", "1")


def content(folder):
    """Every file's bytes; of drawings, and of what tells the times of files, their names."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    differ = lambda path: path.suffix == ".png" or path.name == ".laid.jsonl"  # noqa: E731
    return {str(path.relative_to(folder)): None if differ(path) else path.read_bytes() for path in files}


def test_killed_three_times_it_is_what_it_would_have_been(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scoring, "PER_PIECE", 8)
    monkeypatch.setattr(scoring, "BLOCK", 8)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert ended(capsys, *words, *ONE, "--out", whole).status == 0
    done = set()
    for least in (2, 5, 9):
        child = os.fork()
        if child == 0:
            own_bars()
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            os._exit(main([str(word) for word in (*words, *ONE, "--out", killed)]))
        while len(pieces := list(killed.glob(".work/scores-*/*.parquet"))) < least:
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended before it was killed"
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        # what was done before is not done again
        assert done <= {(piece.name, piece.stat().st_mtime_ns) for piece in killed.glob(".work/scores-*/*.parquet")}
        done = {(piece.name, piece.stat().st_mtime_ns) for piece in pieces}
        assert not (killed / "about.json").exists()
    assert ended(capsys, *words, *ONE, "--out", killed).status == 0
    assert content(killed) == content(whole)


@pytest.mark.long
def test_two_processes_write_the_same_bytes(words, tmp_path, capsys):
    # two pieces
    pairs = [(noise_picture(16, 16 + n % 7, n), f"a big red dog {n}. the cat of {n % 9}.") for n in range(600)]
    write_list(tmp_path / "many", pairs)
    words[1] = tmp_path / "many"
    for processes in (1, 2):
        assert ended(capsys, *words, "--out", tmp_path / f"of{processes}", "--processes", processes).status == 0
    assert content(tmp_path / "of1") == content(tmp_path / "of2")
