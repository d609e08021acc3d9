"""The first call by the C kernels in processes of every kind: without a compiler, forked, at once, ending, threaded."""

import os
import threading

import pytest
import torch

from pargo_kernels.c_path import library
from pargo_kernels.partial_global_attention import partial_global_attention
from tests.kernels.made.c_libraries import compilations, ended_well, in_child, kept, leftovers, needs_compiler, python


def test_without_a_compiler_auto_is_the_torch_path_and_says_so_once(tmp_path):
    script = """
        import os, sys, torch
        events = []
        watched = ("subprocess.Popen", "os.fork", "os.posix_spawn", "ctypes.dlopen")
        sys.addaudithook(lambda event, arguments: events.append(event) if event in watched else None)
        import pargo_kernels.ops
        assert not events, events
        assert not any("c_path" in name for name in sys.modules)
        from pargo_kernels.ops import cascaded_partial_attention, partial_global_attention
        query = torch.randn(1, 2, 40, 16, requires_grad=True)
        for op, setting in ((partial_global_attention, 33), (cascaded_partial_attention, 7)):
            results = []
            for impl in ("auto", "torch"):
                out, lse = op(query, query, query, setting, return_lse=True, impl=impl)
                results.append((out, lse, *torch.autograd.grad(out.square().sum() + lse.sum(), query)))
            assert all(map(torch.equal, *results))
            try:
                op(query, query, query, setting, impl="c")
            except ValueError as error:
                print(error)
    """
    done = python(script, PATH=str(tmp_path), CC="")
    assert done.returncode == 0, done.stderr
    reason = "no C compiler is on the path (cc, gcc, clang); install one, or name one by the variable CC"
    said = f"impl='c' cannot run: {reason}. Use impl='torch', or impl='auto' to choose by device."
    assert done.stdout.splitlines() == [said, said]
    (line,) = done.stderr.splitlines()
    assert line.startswith("impl='auto' computes by the torch path on this CPU")
    assert reason in line


@needs_compiler
def test_the_first_call_may_come_in_a_fork_and_the_last_while_the_interpreter_shuts_down():
    script = """
        import atexit, os, signal, threading, torch
        from pargo_kernels.ops import partial_global_attention
        # work for two threads, and tensors that torch's own operations leave to one: those hang in a fork
        query, key = torch.randn(1, 4, 60, 64), torch.randn(1, 4, 1000, 64)
        torch.set_num_threads(2)
        plain = partial_global_attention(query, key, key, 45, impl="torch")
        def check(when):
            torch.testing.assert_close(partial_global_attention(query, key, key, 45, impl="c"), plain)
            print(when, flush=True)
        # torch's threads are there, and not in the child
        key + key
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            check("fork")
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        atexit.register(check, "exit")
        atexit.register(partial_global_attention, query, key, key, 45, impl="torch")
        def outlive():
            threading.main_thread().join()
            check("thread")
        threading.Thread(target=outlive).start()
    """
    # no process starts another by then: what is called must be there
    assert library.why_not(torch.float32) is None
    done = python(script)
    assert (done.returncode, done.stdout.split()) == (0, ["fork", "thread", "exit"]), done.stderr
    assert "Traceback" not in done.stderr


@needs_compiler
def test_a_fork_after_the_first_call_computes_the_same():
    # work for two threads, and tensors that torch's own operations leave to one: those hang in a fork
    query, key = torch.randn(1, 4, 60, 64), torch.randn(1, 4, 1000, 64)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = partial_global_attention(query, key, key, 40, impl="c")

        def again():
            assert torch.equal(partial_global_attention(query, key, key, 40, impl="c"), expected)

        assert ended_well(in_child(again))
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_a_fork_while_another_thread_compiles_waits_for_nobody(stub, cache, monkeypatch):
    monkeypatch.setattr(library, "SOURCES", stub)
    monkeypatch.setattr(library, "_found", None)
    # as that thread would hold it, which the child does not have
    with library._lock:
        assert ended_well(in_child(library.library))
    assert len(kept(cache)) == 1


@needs_compiler
def test_threads_that_come_at_once_wait_for_one_that_compiles(stub, cache, logged, monkeypatch):
    monkeypatch.setattr(library, "SOURCES", stub)
    monkeypatch.setattr(library, "_found", None)
    found, start = [], threading.Barrier(4)

    def ask():
        start.wait()
        found.append(library.library())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one is found[0] for one in found] == [True] * 4
    assert compilations(logged) == 1


@needs_compiler
def test_processes_that_come_at_once_wait_for_one_that_compiles(stub, cache, logged):
    def ask():
        assert library.obtain(stub).file.parent == cache

    children = [in_child(ask) for _ in range(3)]
    assert [ended_well(pid) for pid in children] == [True] * 3
    assert compilations(logged) == 1
    assert leftovers(cache) == []


def test_a_process_that_hangs_on_to_the_cache_holds_nobody_up(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    (is_held, says_held), (may_end, lets_end) = os.pipe(), os.pipe()

    def hold():
        with open(tmp_path / "lock", "w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            os.write(says_held, b"x")
            os.read(may_end, 1)

    pid = in_child(hold)
    os.read(is_held, 1)
    with library._held(tmp_path / "lock", timeout=0.1):
        os.write(lets_end, b"x")
    assert ended_well(pid)
