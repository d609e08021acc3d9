"""The compiled library: found, made, kept, trusted and loaded.

What is compiled here is a stub, but for what asks for the kernels themselves.
"""

import contextlib
import ctypes
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pargo_kernels.c_path import compiler, library
from pargo_kernels.c_path.call import CALL
from pargo_kernels.c_path.compiler import Unavailable
from pargo_kernels.partial_global_attention import partial_global_attention
from tests.kernels.made.c_libraries import COMPILER, compilations, kept, leftovers, needs_compiler, write_script

not_root = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root writes anywhere")
root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")


def running(command):
    """Whether a process runs this command; one that has ended has none."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if file.read_bytes() == b"".join(word.encode() + b"\0" for word in command.split()):
                return True
    return False


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


@needs_compiler
def test_a_cache_that_no_program_may_be_loaded_from_is_not_used(stub, cache, caplog, monkeypatch):
    """As on file systems that are mounted noexec; the linker's refusal is played."""
    opened = ctypes.CDLL

    def refuses(name, *arguments):
        if str(cache) in str(name):
            raise OSError(f"{name}: failed to map segment from shared object")
        return opened(name, *arguments)

    monkeypatch.setattr(ctypes, "CDLL", refuses)
    found = library.obtain(stub)
    assert found.file is None
    assert len(found.functions) == 4
    assert "failed to map segment" in caplog.text
    assert not kept(cache)
    assert not leftovers(cache)


@needs_compiler
def test_a_home_that_is_relative_keeps_nothing(stub, caplog, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "somewhere")
    assert library.obtain(stub).file is None
    assert "HOME='somewhere' is no absolute path" in caplog.text
    assert not (tmp_path / "somewhere").exists()


@needs_compiler
def test_what_killed_compilations_left_is_removed_when_they_are_surely_over(stub, cache):
    cache.mkdir(mode=0o700, parents=True)
    old, young = cache / "key.killed", cache / "key.running"
    for folder in (old, young):
        folder.mkdir()
        (folder / "kernels.so").touch()
    os.utime(old, (time.time() - 2 * library.STALE,) * 2)
    library.obtain(stub)
    assert leftovers(cache) == ["key.running"]
