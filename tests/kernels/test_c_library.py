"""The compiled library: found, made, kept, trusted and loaded; in processes, threads and on machines of every kind.

What is compiled here is a stub, but for what asks for the kernels themselves.
"""

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

from pargo_kernels.c_path import compiler, library
from pargo_kernels.c_path.call import CALL
from pargo_kernels.c_path.compiler import Unavailable
from pargo_kernels.partial_global_attention import partial_global_attention

try:
    COMPILER = shlex.join(compiler.find().command)
except Unavailable:
    COMPILER = None
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here: nothing was compiled")
not_root = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root writes anywhere")
root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")

STUB = """
#include "stub.h"
#pragma GCC visibility push(default)
int pargo_partial_global_forward(const void *call) { return call == 0; }
int pargo_partial_global_backward(const void *call) { return call == 0; }
int pargo_cascaded_forward(const void *call) { return call == 0; }
int pargo_cascaded_backward(const void *call) { return call == 0; }
long long pargo_call_bytes(void) { return BYTES; }
long long pargo_dtypes(void) { return 3; }
"""


@pytest.fixture
def stub(tmp_path):
    """A folder of sources that compile at once."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "stub.c").write_text(STUB)
    (folder / "stub.h").write_text(f"#define BYTES {CALL.size}\n")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pargo" / "kernels"


@pytest.fixture
def logged(tmp_path, monkeypatch):
    """A compiler that leaves a line in this file for every compilation, and takes its time."""
    file, script = tmp_path / "compilations", tmp_path / "logged-cc"
    write_script(script, f'case "$*" in *-shared*) echo >> {shlex.quote(str(file))}; sleep 0.1;; esac\nexec {COMPILER} "$@"')
    monkeypatch.setenv("CC", str(script))
    file.touch()
    return file


def write_script(file, body):
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o700)


def running(command):
    """Whether a process runs this command; one that has ended has none."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if file.read_bytes() == b"".join(word.encode() + b"\0" for word in command.split()):
                return True
    return False


def compilations(file):
    return len(file.read_text().splitlines())


def kept(cache):
    return sorted(cache.glob("*.so"))


def leftovers(cache):
    return [file.name for file in cache.iterdir() if file.suffix != ".so" and file.name != "lock"]


def in_child(work):
    """Run ``work`` in a forked child; its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(30)
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def ended_well(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def python(script, *arguments, **environment):
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


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
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_auto_is_the_c_path_where_there_is_a_compiler(dtype):
    query = torch.randn(1, 2, 40, 16, dtype=dtype, requires_grad=True)
    results = []
    for impl in ("auto", "c", "torch"):
        out = partial_global_attention(query, query, query, 33, impl=impl)
        results.append((out, *torch.autograd.grad(out.float().square().sum(), query)))
    assert all(map(torch.equal, *results[:2]))
    # else this shows nothing; 16 bits may round away what is different
    assert dtype != torch.float32 or not all(map(torch.equal, *results[1:]))


@needs_compiler
def test_every_dtype_that_the_compiler_knows_is_computed():
    given = [flag for flag in compiler.flags() if flag != "-shared"]
    command = [*compiler.find().command, *given, "-dM", "-E", "-x", "c", os.devnull]
    known = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    expected = {torch.float32, torch.bfloat16} | ({torch.float16} if "__FLT16_MAX__" in known else set())
    assert library.library().dtypes == expected


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


@needs_compiler
def test_compiling_is_said_and_what_is_kept_is_not_compiled_again(stub, cache, logged, caplog):
    first = library.obtain(stub)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("pargo_kernels", logging.WARNING)
    assert str(cache) in record.getMessage()
    assert "in some seconds, by" in record.getMessage()
    assert (first.dtypes, first.seconds > 0) == ({torch.float32, torch.bfloat16}, True)
    again = library.obtain(stub)
    assert (again.file, again.seconds, len(caplog.records)) == (first.file, None, 1)
    assert [function(b"x") for function in again.functions.values()] == [0] * 4
    assert leftovers(cache) == []
    # only this user's, whatever the umask
    assert (cache.stat().st_mode & 0o077, again.file.stat().st_mode & 0o077) == (0, 0)


@needs_compiler
def test_what_a_library_is_made_of_names_it(stub, cache, tmp_path, monkeypatch):
    def add_a_line(name):
        with open(stub / name, "a") as file:
            file.write("\n")

    other = tmp_path / "other-cc"
    write_script(other, f'exec {COMPILER} "$@"')

    def renew():
        write_script(other, f'exec {COMPILER} -DNEWER "$@"')

    changes = (
        lambda: None,
        lambda: add_a_line("stub.c"),
        lambda: add_a_line("stub.h"),
        lambda: monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-g")),
        lambda: monkeypatch.setenv("CC", str(other)),
        renew,
        lambda: monkeypatch.setenv("CC", f"{other} -DOPTION"),
        lambda: monkeypatch.setattr(library, "processor", lambda: "another"),
    )
    keys = set()
    for change in changes:
        change()
        file = library.obtain(stub).file
        assert library.obtain(stub).file == file
        keys.add(file.name.split(".")[0])
    assert len(keys) == len(changes)


@needs_compiler
@pytest.mark.parametrize("damage", ("truncated", "overwritten", "another library", "not a library"))
def test_a_broken_library_in_the_cache_is_compiled_anew(stub, cache, logged, damage):
    good = library.obtain(stub).file
    contents = good.read_bytes()
    # a loaded file is another file: this process's is not harmed
    good.unlink()
    if damage == "truncated":
        good.write_bytes(contents[: len(contents) // 2])
    elif damage == "overwritten":
        good.write_bytes(contents[:-2000] + bytes(2000))
    else:
        good.write_bytes(b"\x7fELF" if damage == "not a library" else contents.replace(b"pargo_", b"cargo_"))
        good.rename(cache / library._name(good.name.split(".")[0], good))
    for path in kept(cache):
        path.chmod(0o700)
    assert library.obtain(stub).file.read_bytes() == contents
    assert compilations(logged) == 2
    assert library.obtain(stub).seconds is None


@needs_compiler
@pytest.mark.parametrize(
    "place",
    (
        "under a file",
        pytest.param("read-only", marks=not_root),
        "writable by others",
        pytest.param("another user's", marks=root),
    ),
)
def test_a_cache_that_cannot_be_used_is_not(stub, cache, logged, caplog, monkeypatch, tmp_path, place):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    if place == "under a file":
        monkeypatch.setenv("XDG_CACHE_HOME", str(stub / "stub.h"))
    else:
        # what lies there would load
        library.obtain(stub)
        if place == "another user's":
            os.chown(cache, 65534, -1)
        else:
            cache.chmod({"read-only": 0o500, "writable by others": 0o777}[place])
    caplog.clear()
    found = library.obtain(stub)
    if place == "read-only":
        # what was kept before serves
        assert (found.seconds, caplog.records) == (None, [])
        with open(stub / "stub.h", "a") as file:
            file.write("\n")
        found = library.obtain(stub)
        cache.chmod(0o700)
    assert (found.file, [function(b"x") for function in found.functions.values()]) == (None, [0] * 4)
    (record,) = caplog.records
    assert "not kept: " in record.getMessage()
    assert list((tmp_path / "temporary").iterdir()) == []


@needs_compiler
def test_a_library_that_others_can_write_to_is_not_loaded(stub, cache, logged):
    library.obtain(stub).file.chmod(0o722)
    assert library.obtain(stub).seconds is not None
    assert compilations(logged) == 2


# of this process's alone
LONG = f"sleep 60.{os.getpid()}"
BROKEN = {
    "fails": ("echo 'stub.c:1: error: no such machine' >&2; exit 3", r"failed with status 3 \(stub.c:1: error: no such mach"),
    "fails in silence": ("exit 1", "failed with status 1 .it said nothing."),
    "makes nothing": ("exit 0", "ended well and made nothing"),
    "makes something else": ('while [ "$1" != -o ]; do shift; done; echo hello > "$2"', "can be kept and loaded nowhere"),
    "makes another library": (f'exec {COMPILER} "$@" -Dpargo_dtypes=other', "is not the library .*pargo_dtypes"),
    "makes one of another call": (
        f'exec {COMPILER} "$@" -DBYTES=8 -include /dev/null',
        "takes calls of 8 bytes and this version",
    ),
    "hangs": (f"{LONG} & wait", "did not end in 1 s"),
}


@needs_compiler
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_compiler_is_a_reason(stub, cache, tmp_path, monkeypatch, name):
    body, words = BROKEN[name]
    script = tmp_path / "broken-cc"
    write_script(script, f'[ "$1" = --version ] && exit\n{body}')
    (stub / "stub.h").write_text(f"#ifndef BYTES\n#define BYTES {CALL.size}\n#endif\n")
    monkeypatch.setenv("CC", str(script))
    with pytest.raises(Unavailable, match=words):
        library.obtain(stub, timeout=1 if name == "hangs" else compiler.TIMEOUT)
    assert (kept(cache), leftovers(cache)) == ([], [])
    if name == "hangs":
        # what it started ended with it
        deadline = time.monotonic() + 10
        while running(LONG):
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize(("named", "words"), (("no-such-cc -O1", "is not on the path"), ("cc 'unclosed", "is no command")))
def test_a_named_compiler_is_not_replaced_by_another(monkeypatch, named, words):
    monkeypatch.setenv("CC", named)
    with pytest.raises(Unavailable, match=words):
        compiler.find()


def test_what_cannot_be_found_out_is_found_out_once(stub, cache, logged, monkeypatch):
    (stub / "stub.c").write_text("this is no C\n")
    monkeypatch.setattr(library, "SOURCES", stub)
    monkeypatch.setattr(library, "_found", None)
    query = torch.randn(1, 1, 4, 8)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"impl='c' cannot run: .* failed with status .*error.*\. Use impl='torch'"):
            partial_global_attention(query, query, query, 4, impl="c")
    assert compilations(logged) <= 1


def test_other_systems_are_a_reason(stub, monkeypatch):
    monkeypatch.setattr(os, "name", "nt")
    with pytest.raises(Unavailable, match="it needs a POSIX system, and this is nt"):
        library.obtain(stub)


def test_no_sources_are_a_reason(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("CC", sys.executable)
    with pytest.raises(Unavailable, match=r"its sources are not in .*; install pargo from its wheel, unpacked"):
        library.obtain(tmp_path)
