"""Libraries of the C path for tests: sources that compile at once, a cache of the test's own, compilers that are watched."""

import os
import shlex
import signal
import subprocess
import sys
import textwrap

import pytest

from pargo_kernels.c_path import compiler
from pargo_kernels.c_path.call import CALL
from pargo_kernels.c_path.compiler import Unavailable

try:
    COMPILER = shlex.join(compiler.find().command)
except Unavailable:
    COMPILER = None
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here: nothing was compiled")

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
