"""Folders that are complete or absent, whatever happens while they are made."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pargo_mllm.files import MANIFEST
from pargo_mllm.miniature.cache import FolderCache, settings_key

SETTINGS = {"steps": 3, "rate": 0.1}


@pytest.fixture
def said():
    return []


@pytest.fixture
def cache(tmp_path, said):
    return FolderCache(tmp_path / "cache", say=said.append)


def build(folder):
    (folder / "sub").mkdir()
    (folder / "weights.bin").write_bytes(b"weights")
    (folder / "sub" / "log.txt").write_text("log")


def test_a_folder_is_built_once_for_its_settings(cache):
    built = []
    for settings in (SETTINGS, SETTINGS, dict(reversed(SETTINGS.items())), {**SETTINGS, "steps": 4}):
        folder = cache.get("stage", settings, lambda folder: (built.append(folder), build(folder)))
        assert (folder / "weights.bin").read_bytes() == b"weights"
    assert len(built) == 2
    assert cache.find("stage", SETTINGS) == cache.path("stage", SETTINGS)
    assert cache.find("other", SETTINGS) is None
    assert settings_key(SETTINGS) != settings_key({**SETTINGS, "rate": 0.2})


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda f: (f / "weights.bin").write_bytes(b"Weights"), "weights.bin is not what was written"),
        (lambda f: (f / "sub" / "log.txt").write_text("lo"), "log.txt is not what was written"),
        (lambda f: (f / "weights.bin").unlink(), "weights.bin is missing"),
        (lambda f: (f / MANIFEST).unlink(), "no readable manifest"),
        (lambda f: (f / MANIFEST).write_text("{"), "no readable manifest"),
        (lambda f: (f / MANIFEST).write_text('{"files": ["weights.bin"]}'), "no readable manifest"),
        (lambda f: (f / MANIFEST).write_text("[]"), "no readable manifest"),
    ],
    ids=range(7),
)
def test_a_folder_that_was_tampered_with_is_not_used_but_built_anew(cache, said, harm, reason):
    folder = cache.get("stage", SETTINGS, build)
    harm(folder)
    assert cache.find("stage", SETTINGS) is None
    assert reason in said[-1]
    assert cache.get("stage", SETTINGS, build) == folder
    assert (folder / "weights.bin").read_bytes() == b"weights"
    assert cache.find("stage", SETTINGS) == folder


def test_an_error_while_building_leaves_nothing_that_could_be_used(cache):
    def fail(folder):
        build(folder)
        raise RuntimeError("out of memory")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            cache.get("stage", SETTINGS, fail)
        assert cache.find("stage", SETTINGS) is None
    assert cache.get("stage", SETTINGS, build).is_dir()
    assert [path.name for path in cache.root.iterdir()] == [cache.path("stage", SETTINGS).name]


KILLED = """
import sys, time
from pathlib import Path
from pargo_mllm.miniature.cache import FolderCache
def build(folder):
    (folder / "weights.bin").write_bytes(b"half")
    print("started", flush=True)
    time.sleep(60)
FolderCache(Path(sys.argv[1])).get("stage", {"steps": 3, "rate": 0.1}, build)
"""


def test_kill_9_in_the_middle_leaves_nothing_behind_that_is_used(cache):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(cache.root)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"started\n"
        assert cache.find("stage", SETTINGS) is None, "half of it is not there yet"
        # while its owner lives, nobody removes it
        assert cache.get("stage", {"other": 1}, build).is_dir()
        assert any(str(process.pid) in path.name for path in cache.root.iterdir())
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert cache.find("stage", SETTINGS) is None
    folder = cache.get("stage", SETTINGS, build)
    assert (folder / "weights.bin").read_bytes() == b"weights"
    assert not [path for path in cache.root.iterdir() if path.name.endswith(".partial")]


def test_the_first_of_two_that_build_the_same_wins(cache):
    def slower(folder):
        build(folder)
        if not cache.path("stage", SETTINGS).exists():
            # another process comes in between: its folder is complete
            other = FolderCache(cache.root)
            finished = other.get("elsewhere", SETTINGS, build)
            os.rename(finished, cache.path("stage", SETTINGS))
            time.sleep(0.01)

    folder = cache.get("stage", SETTINGS, slower)
    assert cache.find("stage", SETTINGS) == folder
    assert not [path for path in cache.root.iterdir() if path.name.endswith(".partial")]


def test_the_manifest_says_what_the_folder_was_made_with(cache):
    manifest = json.loads((cache.get("stage", SETTINGS, build) / MANIFEST).read_text())
    assert manifest["settings"] == SETTINGS
    assert set(manifest["files"]) == {"weights.bin", "sub/log.txt"}
