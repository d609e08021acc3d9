"""kill -9 at any moment, then the same command again: the end is that of a run that was not killed, bit for bit.

Moments are drawn anew every time; PARGO_KILL_SEED repeats them.
"""

import os
import random
import secrets
import shutil
import socket
import time

import pytest

from pargo_mllm.files import what_is_wrong
from tests.mllm.made.caches import own_cache
from tests.mllm.made.fork_server import ForkServer
from tests.mllm.made.photographs import write_photographs
from tests.mllm.made.training_runs import losses, mini1, mini2

STEPS = 6
MOMENTS = ("start", "step", "checkpoint", "end")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ForkServer({"XDG_CACHE_HOME": own_cache(tmp_path_factory.mktemp("cache"))}) as server:
        yield server


@pytest.fixture(scope="module")
def start(server, tmp_path_factory):
    """What stage 2 starts from, and the photographs."""
    root = tmp_path_factory.mktemp("start")
    data = write_photographs(root / "photographs", count=9)
    assert server.start(["train", *mini1(data, root / "stage1")], root / "log").wait() == 0
    return data, root / "stage1"


def command(start, output, *more):
    """A checkpoint every step: much of the time goes into writing them. Dropout: random numbers must be restored too."""
    often = ["--steps", STEPS, "--save-steps", "1", "--lora-dropout", "0.1", *more]
    return ["train", *mini2(*start, output, *often)]


class Watch:
    """Sees how far a run has come, by its folders."""

    def __init__(self, output):
        self.output = output
        self.work = output.with_name(f".{output.name}.partial")
        self.checkpoints = self.work / "checkpoints"

    def begins(self, moment, step):
        """Whether a moment has begun, or is over already: the ``step``-th one, of those that come every step."""
        if moment == "start" or self.output.exists():
            return True
        newest = max((int(path.name.split("-")[1]) for path in self.checkpoints.glob("checkpoint-*")), default=0)
        if moment == "checkpoint":
            return newest >= step or (self.checkpoints / ".checkpoint.partial" / f"checkpoint-{step}").exists()
        return newest >= (step if moment == "step" else STEPS)

    def describe(self):
        """What is there."""
        if self.output.exists():
            return "finished"
        names = sorted(str(path.relative_to(self.work)) for path in self.work.rglob("*") if path.is_file())
        return f"{len(names)} files, the last ones {', '.join(names[-3:])}"


@pytest.fixture(scope="module")
def whole(server, start, tmp_path_factory):
    """The folder of a run that was not killed, and how long each moment lasts."""
    output = tmp_path_factory.mktemp("whole") / "out"
    watch, began = Watch(output), {}
    run, first = server.start(command(start, output), output.parent / "log"), time.monotonic()
    while run.is_alive():
        for moment in MOMENTS:
            for step in (2, 3):
                if (moment, step) not in began and watch.begins(moment, step):
                    began[moment, step] = time.monotonic()
        time.sleep(0.0002)
    assert run.wait() == 0, (output.parent / "log").read_text()
    for moment in MOMENTS:
        for step in (2, 3):
            # too short to be seen
            began.setdefault((moment, step), time.monotonic())
    lasts = {
        "start": began["step", 2] - first,
        "step": began["checkpoint", 3] - began["step", 2],
        "checkpoint": began["step", 3] - began["checkpoint", 3],
        "end": time.monotonic() - began["end", 2],
    }
    return output, lasts


@pytest.fixture(scope="session")
def seed():
    return int(os.environ.get("PARGO_KILL_SEED") or secrets.randbits(32))


def points(count, first, long=False):
    """One moment after the other."""
    marks = [pytest.mark.long] if long else []
    numbers = range(first, first + count)
    return [pytest.param(MOMENTS[n % 4], n, marks=marks, id=f"{MOMENTS[n % 4]}-{n}") for n in numbers]


@pytest.mark.parametrize(("moment", "number"), [*points(3, 1), *points(20, 4, long=True)])
def test_goes_on_after_kill(server, start, whole, seed, tmp_path, moment, number):
    expected, lasts = whole
    draw = random.Random(f"{seed} {number}")
    step, share = draw.randint(1, STEPS - 1), draw.random()
    run, watch = server.start(command(start, tmp_path / "out"), tmp_path / "log"), Watch(tmp_path / "out")
    while not watch.begins(moment, step):
        assert run.is_alive(), (tmp_path / "log").read_text()
        time.sleep(0.0002)
    time.sleep(share * max(0.0, lasts[moment]))
    run.kill()
    status = run.wait()
    print(f"PARGO_KILL_SEED={seed}: {moment} {step}, {share:.3f} of {lasts[moment]:.3f} s; status {status}; {watch.describe()}")
    assert status in (-9, 0), (tmp_path / "log").read_text()
    if watch.output.exists():
        # what led to it may be half removed by now: the start below must not go on from that
        assert what_is_wrong(watch.output) is None, "where there is a folder, all of it is there"
    else:
        checkpoints = sorted(watch.checkpoints.glob("checkpoint-*"))
        assert all(what_is_wrong(c) is None for c in checkpoints[-1:]), "nor is the newest checkpoint half there"
    assert server.start(command(start, watch.output), tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    assert_same(watch.output, expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "out"]


def assert_same(folder, expected):
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    assert losses(folder) == losses(expected)


@pytest.mark.parametrize("engine", ["ddp", pytest.param("fsdp2", marks=pytest.mark.long)])
def test_two_processes_go_on_after_kill(server, start, seed, tmp_path, engine):
    """Dropout draws other numbers in every process, and each must have its own again."""
    run = command(start, tmp_path / "out", "--engine", engine)

    def both():
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        return [server.start(run, tmp_path / f"log{r}", RANK=str(r), LOCAL_RANK=str(r), **shared) for r in range(2)]

    def said(rank):
        return (tmp_path / f"log{rank}").read_text()

    assert [process.wait() for process in both()] == [0, 0], said(0) + said(1)
    expected = shutil.move(tmp_path / "out", tmp_path / "whole")
    processes, watch, step = both(), Watch(tmp_path / "out"), random.Random(seed).randint(2, STEPS - 1)
    while not watch.begins("step", step):
        assert processes[0].is_alive(), said(0)
        time.sleep(0.0002)
    for process in processes:
        process.kill()
    assert [process.wait() for process in processes] == [-9, -9]
    assert [process.wait() for process in both()] == [0, 0], said(0) + said(1)
    assert "goes on from checkpoint at step" in said(0)
    assert "goes on from" not in said(1), "the first process alone speaks"
    assert_same(tmp_path / "out", expected)
