"""Pieces over the processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from pargo_mllm.errors import UserError
from pargo_mllm.jobs import JobError, engine_of
from pargo_mllm.jobs.ledger import AHEAD, Ledger
from pargo_mllm.jobs.local import LocalEngine
from pargo_mllm.jobs.outcomes import Done
from tests.mllm.made import piecework


def alive(pid):
    """Whether a process is there, and not only what is left of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def processes_of(engine, work, pieces):
    """Results up to the first of another process, with the generator."""
    results, seen = engine.map(work, pieces), []
    for result in results:
        seen.append(result)
        if result[1] != os.getpid():
            return results, seen
    raise AssertionError("no process was begun")


def all_elsewhere(monkeypatch):
    """This process does no piece itself."""
    monkeypatch.setattr("pargo_mllm.jobs.ledger.Ledger.take_now", lambda ledger: None)
    monkeypatch.setattr("pargo_mllm.jobs.workers.PATIENCE", 0.0)


def test_small_work_is_done_here_and_in_order():
    torch.set_num_threads(2)
    before = torch.get_num_threads(), dict(os.environ)
    results = list(LocalEngine(3).map(piecework.told, range(50)))
    assert [piece for piece, *_ in results] == list(range(50))
    assert {process for _, process, *_ in results} == {os.getpid()}
    assert {threads for *_, threads, _ in results} == {1}
    assert (torch.get_num_threads(), dict(os.environ)) == before
    torch.set_num_threads(1)


def test_large_work_is_done_by_processes_of_one_thread_each_in_order():
    results, seen, others = LocalEngine(2).map(piecework.slowly, range(1000), title="pieces"), [], set()
    for result in results:
        seen.append(result)
        others = {process for _, process, *_ in seen} - {os.getpid()}
        if len(others) == 2 and result[1] != os.getpid():
            break
    results.close()
    assert [piece for piece, *_ in seen] == list(range(len(seen)))
    assert {tuple(result[2:]) for result in seen if result[1] in others} == {(1, "1")}
    wait_for(lambda: not any(map(alive, others)))


def test_no_more_is_begun_than_may_wait_for_its_turn():
    ledger = Ledger(100, 2)
    slow, others = ledger.take_now(), 0
    while (index := ledger.take_now()) is not None:
        ledger.put(index, Done(index))
        others += 1
    assert others == 2 * AHEAD - 1
    ledger.put(slow, Done(slow))
    assert ledger.take_now() is None
    assert ledger.get(0) == Done(0)
    assert ledger.take_now() == 2 * AHEAD


def test_nothing_is_left_when_nobody_asks_for_more():
    results, seen = processes_of(LocalEngine(2), piecework.slowly, range(1000))
    threads = threading.active_count()
    results.close()
    wait_for(lambda: not alive(seen[-1][1]))
    wait_for(lambda: threading.active_count() <= threads)


@pytest.mark.parametrize(("workers", "elsewhere"), [(1, False), (2, False), (2, True)])
@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("damaged", piecework.DamagedLine, "data.json, line 5: damaged"),
        ("renamed", piecework.RenamedLine, r"data.json, line 5$"),
        ("unspeakable", UserError, "told in words alone"),
        ("bug", KeyError, "no such key"),
        ("disk", JobError, "piece 6 of 9"),
        ("memory", JobError, "piece 6 of 9"),
    ],
)
def test_an_error_reaches_the_caller_as_it_is_and_loses_nothing(workers, how, kind, text, elsewhere, tmp_path, monkeypatch):
    if elsewhere:
        all_elsewhere(monkeypatch)
    pieces = [(str(tmp_path), number, 0.0, how if number in (5, 7) else "") for number in range(9)]
    results = LocalEngine(workers).map(piecework.failing, pieces)
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(kind, match=text) as caught:
        next(results)
    assert {str(number) for number in range(5)} <= {file.name for file in tmp_path.iterdir()}
    if how == "damaged":
        assert (type(caught.value), caught.value.file, caught.value.line) == (piecework.DamagedLine, "data.json", 5)
    if how == "bug" and elsewhere:
        assert "piecework.py" in str(caught.value.__cause__)


def test_a_worker_that_is_killed_is_told_with_its_piece(tmp_path, monkeypatch):
    all_elsewhere(monkeypatch)
    how = {3: "killed", 4: "awaited"}
    pieces = [(str(tmp_path), number, 0.0, how.get(number, "")) for number in range(20)]
    results = LocalEngine(2).map(piecework.failing, pieces)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(JobError, match=r"piece 4 of 20 .*SIGKILL.*--processes"):
        next(results)
    # the other one was let finish
    assert {"0", "1", "2", "begun", "4"} == {file.name for file in tmp_path.iterdir()}


def test_after_a_failure_nothing_is_begun(tmp_path, monkeypatch):
    all_elsewhere(monkeypatch)
    pieces = [(str(tmp_path), number, 0.05, "damaged" if number == 0 else "") for number in range(40)]
    with pytest.raises(piecework.DamagedLine):
        list(LocalEngine(2).map(piecework.failing, pieces))
    # what the other one was at
    assert len(list(tmp_path.iterdir())) <= 2


def test_a_result_that_cannot_be_sent_is_an_error_of_its_piece(tmp_path, monkeypatch):
    all_elsewhere(monkeypatch)
    pieces = [(str(tmp_path), number, 0.0, "unsendable") for number in range(2)]
    with pytest.raises(Exception, match=r"pickle|local object"):
        list(LocalEngine(2).map(piecework.failing, pieces))


def test_work_that_no_process_can_import_is_refused_however_small():
    with pytest.raises(Exception, match=r"pickle|local object"):
        list(LocalEngine(2).map(lambda piece: piece, range(2)))
    assert list(LocalEngine(2).map(partial(pow, 2), range(4))) == [1, 2, 4, 8]


@pytest.mark.long
@pytest.mark.parametrize("waits", [0, 30])
def test_an_interrupted_command_leaves_no_process(tmp_path, waits):
    """In its first piece, which it does itself, and later, when others do them."""
    code = (
        "import sys; from pargo_mllm.jobs import engine_of; from tests.mllm.made.piecework import marked\n"
        f"list(engine_of('local', 2).map(marked, [({str(tmp_path)!r}, n, n >= {waits}) for n in range(100)]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: (tmp_path / f"begun-{waits}").exists())
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert said.count("KeyboardInterrupt") == 1
    # whatever it began is of its session
    wait_for(lambda: not subprocess.run(["ps", "-o", "pid=", "-s", str(process.pid)], capture_output=True).stdout.split())


@pytest.mark.long
def test_a_killed_command_leaves_no_process_that_goes_on(tmp_path):
    code = (
        "import sys; from pargo_mllm.jobs import engine_of; from tests.mllm.made.piecework import marked\n"
        f"list(engine_of('local', 2).map(marked, [({str(tmp_path)!r}, n, n >= 30) for n in range(100)]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    wait_for(lambda: (tmp_path / "begun-30").exists() and (tmp_path / "begun-31").exists())
    process.kill()
    process.wait()
    wait_for(lambda: not subprocess.run(["ps", "-o", "pid=", "-s", str(process.pid)], capture_output=True).stdout.split())
    assert not (tmp_path / "done-30").exists()


def test_no_other_engine():
    with pytest.raises(JobError, match="local, ray"):
        engine_of("slurm")
