"""Pieces over a local Ray of two workers: `make test-ray`. What is written is what local processes write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pargo_cli.main import main
from pargo_mllm.errors import UserError
from pargo_mllm.jobs import JobError, engine_of
from tests.mllm.made import official, piecework, similarity_models
from tests.mllm.made.miniature_families import make_family
from tests.mllm.made.photographs import noise_picture

ray = pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` has it")

WORKERS = 2


def prepare(*options):
    """`pargo data prepare` of COCO's captions, and of what its official files lack."""

    def command(source, out):
        if not any(source.iterdir()):
            official.write("coco_captions", source)
        return ["data", "prepare", "coco_captions", "--src", source, "--out", out, *options]

    return command


def of_shards(*words):
    """A command about shards of a few records each; ``OUT`` stands for a folder that is there."""

    def command(source, out):
        shards = source.parent / "shards"
        if not shards.exists():
            assert main([*map(str, prepare("--shards", "--per-shard", "4")(source, shards))]) == 0
        out.mkdir()
        return [str(word).replace("OUT", str(out)).replace("DATA", str(shards)) for word in words]

    return command


def filtering(source, out):
    """`pargo filter` by a model that was never trained, told to drop all the same."""
    data = source.parent / "list"
    if not data.exists():
        assert main([*map(str, prepare()(source, data))]) == 0
        similarity_models.random_clip(source.parent / "clip", ["caption of photograph 0 1 2 3 4 5"])
    words = ("filter", data, "--model", source.parent / "clip", "--out", out, "--quantile", "0.5", "--even-so", "--json")
    return [*words, "--device", "cpu", "--html", source.parent / "page.html"]


def captioning(source, out):
    """`pargo caption` by a miniature."""
    if not any(source.iterdir()):
        model, processor = make_family("qwen")
        for part in (model, processor):
            part.save_pretrained(source / "model")
        (source / "pictures").mkdir()
        for number in range(9):
            noise_picture(20 + number, 30, seed=number).save(source / "pictures" / f"{number}.png")
        (source / "prompt.txt").write_text("what is it?")
    words = ("caption", source / "pictures", "--out", out, "--local", source / "model", "--prompt-file", source / "prompt.txt")
    return [*words, "--max-tokens", "64", "--device", "cpu", "--json"]


# of a command that takes --engine: given a folder for its sources and one for its outcome, which is not there, its words
COMMANDS = {
    "prepare-list": prepare(),
    "prepare-shards": prepare("--shards", "--per-shard", "4"),
    "validate": of_shards("validate", "DATA", "--decode", "--html", "OUT/page.html", "--findings", "OUT/findings.jsonl"),
    "filter": filtering,
    "caption": captioning,
    "card": of_shards("data", "card", "DATA", "--out", "OUT", "--json"),
}


@pytest.fixture(scope="module")
def cluster():
    """Two workers, for all tests of this module but those that begin their own."""
    engine = engine_of("ray", WORKERS)
    with engine._cluster():
        yield engine


def written(folder):
    """Every file below a folder, with its bytes, but for what a filter notes of its own files: their times."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != ".laid.jsonl")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_writes_the_same_with_any_engine(name, cluster, tmp_path, capsys):
    (tmp_path / "source").mkdir()
    outcomes = {}
    for engine in ("local", "ray"):
        words = COMMANDS[name](tmp_path / "source", tmp_path / "out")
        capsys.readouterr()
        status = main([*map(str, words), "--engine", engine, "--processes", str(WORKERS)])
        outcomes[engine] = status, written(tmp_path / "out"), capsys.readouterr().out
        (tmp_path / "out").rename(tmp_path / engine)
    assert outcomes["ray"] == outcomes["local"]
    assert outcomes["local"][0] in (0, 3)
    assert len(outcomes["local"][1]) >= 2


def test_results_are_in_order_and_of_two_workers_of_one_thread(cluster):
    results = list(cluster.map(piecework.slowly, range(40), title="pieces"))
    assert [piece for piece, *_ in results] == list(range(40))
    assert len({process for _, process, *_ in results}) == WORKERS
    assert {threads for *_, threads, _ in results} == {1}
    assert os.getpid() not in {process for _, process, *_ in results}


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("damaged", piecework.DamagedLine, "data.json, line 3: damaged"),
        ("unspeakable", UserError, "told in words alone"),
        ("bug", KeyError, "no such key"),
        ("disk", JobError, "piece 4 of 9 .*No space left"),
        ("always killed", JobError, "piece 4 of 9 .*--processes"),
    ],
)
def test_an_error_in_a_piece_reaches_the_caller(how, kind, text, cluster, tmp_path):
    pieces = [(str(tmp_path), number, 0.0, how if number == 3 else "") for number in range(9)]
    results, seen = cluster.map(piecework.failing, pieces), []
    with pytest.raises(kind, match=text):
        seen.extend(results)
    assert {"0", "1", "2"} <= {file.name for file in tmp_path.iterdir()}
    # and the cluster still works
    assert list(cluster.map(piecework.square, range(3))) == [0, 1, 4]


def test_a_piece_whose_worker_was_killed_is_done_again(cluster, tmp_path):
    pieces = [(str(tmp_path), number, 0.0, "killed once" if number == 3 else "") for number in range(9)]
    assert list(cluster.map(piecework.failing, pieces)) == list(range(9))
    assert (tmp_path / "died").exists()


def test_nothing_is_under_way_when_nobody_asks_for_more(cluster, tmp_path):
    before = threading.active_count()
    results = cluster.map(piecework.marked, [(str(tmp_path), number, number > 3) for number in range(20)])
    assert next(results) == 0
    results.close()
    # Ray takes its time to end them and the threads that watch them, and begins no other
    deadline = time.monotonic() + 60
    while (begun := len(list(tmp_path.glob("begun-*")))) and time.monotonic() < deadline:
        time.sleep(1)
        ended = threading.active_count() <= before + 1 and len(list(tmp_path.glob("begun-*"))) == begun
        if ended and list(cluster.map(piecework.square, range(3))) == [0, 1, 4]:
            return
    raise AssertionError(f"pieces went on, or {[thread.name for thread in threading.enumerate()]} did")


def test_a_command_begins_a_cluster_of_its_own_and_leaves_nothing(tmp_path):
    """Relative names, the packages of this checkout, and nothing on its output but the one JSON object."""
    (tmp_path / "source").mkdir()
    words = prepare("--shards", "--per-shard", "4", "--json")(tmp_path / "source", "out")
    words[words.index(tmp_path / "source")] = "source"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "pargo_mllm", *words, "--engine", "ray", "--processes", str(WORKERS)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["records"] == 30
    assert len(list((tmp_path / "out").glob("*.tar"))) == 8
    assert not left(tmp_path)


def test_an_interrupted_command_leaves_nothing(tmp_path):
    code = (
        "from pargo_mllm.jobs import engine_of; from tests.mllm.made.piecework import marked\n"
        f"list(engine_of('ray', 2).map(marked, [({str(tmp_path)!r}, n, n > 3) for n in range(20)]))"
    )
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "PARGO_TEST": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "begun-4").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert "KeyboardInterrupt" in said
    deadline = time.monotonic() + 60
    while left(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left(tmp_path)


def left(mark):
    """Processes whose environment or folder names the test's own folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            told = (entry / "environ").read_bytes() + os.readlink(entry / "cwd").encode()
        except (OSError, ValueError):
            continue
        if str(mark).encode() in told and entry.name != str(os.getpid()):
            found.append(entry.name)
    return found
