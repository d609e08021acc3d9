"""The compiled kernels: had from the cache, or compiled into it; loaded once a process.

The cache is ``$XDG_CACHE_HOME/pargo/kernels`` (``~/.cache`` without the variable). A library's name there holds a digest of
all that it was made of (sources, flags, compiler, processor) and one of its own contents, so that a broken file is known
before it is loaded. Nothing here runs at import.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from pargo_kernels.c_path.call import CALL, DTYPES, Function
from pargo_kernels.c_path.compiler import TIMEOUT, Compiler, Unavailable, compile_library, find, flags, processor

SOURCES = Path(__file__).parent
FUNCTIONS = ("partial_global_forward", "partial_global_backward", "cascaded_forward", "cascaded_backward")

# seconds after which a folder that something was compiled in is nobody's any more
STALE = 3600.0

_log = logging.getLogger("pargo_kernels")
_lock = threading.Lock()
_found: Library | Unavailable | None = None


class Library(NamedTuple):
    """A library that is loaded."""

    # by name: takes a packed call, releases the interpreter's lock, returns other than 0 where memory ran out
    functions: Mapping[str, Function]
    dtypes: frozenset[torch.dtype]
    compiler: Compiler
    # None where only this process has it
    file: Path | None
    # of this process's compilation; None where the cache had it
    seconds: float | None


def library() -> Library:
    """The kernels of this process; the first call finds, compiles and loads them.

    Raises:
        Unavailable: where that cannot be; found out once a process.
    """
    global _found
    if _found is None:
        with _lock:
            if _found is None:
                try:
                    _found = obtain()
                except Unavailable as reason:
                    _found = reason
                except OSError as error:
                    _found = Unavailable(f"its files cannot be read or written ({error}); set XDG_CACHE_HOME")
    if isinstance(_found, Unavailable):
        raise Unavailable(*_found.args)
    return _found


def kernel(name: str, query: torch.Tensor) -> Function:
    """The function ``name`` for tensors like ``query``.

    Raises:
        ValueError: where it cannot be had, or does not compute them.
    """
    # the registered op may have been called by an exported program, for a device of its own
    reason = why_not(query.dtype) if query.is_cpu else f"query is on {query.device}"
    if reason is not None:
        raise ValueError(f"impl='c' cannot run: {reason}. Use impl='torch', or impl='auto' to choose by device.")
    return library().functions[name]


def _forget_the_parents_threads() -> None:
    # a thread of the parent that compiles does not exist in the child: the child waits for the parent's file, not its thread
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_parents_threads)


def why_not(dtype: torch.dtype) -> str | None:
    """Why the kernels cannot compute ``dtype`` in this process; None where they can. May compile."""
    try:
        if dtype in library().dtypes:
            return None
    except Unavailable as reason:
        return str(reason)
    return f"{dtype} is not computed by what {library().compiler.command[0]} made; a newer compiler may know it"


def obtain(sources: Path | None = None, timeout: float = TIMEOUT) -> Library:
    """Load the library of ``sources`` (by default this package's) from the cache, compiled first where it is not there.

    Raises:
        Unavailable: without a compiler, or where it makes no library of this ABI within ``timeout`` seconds.
    """
    if os.name != "posix":
        raise Unavailable(f"it needs a POSIX system, and this is {os.name}; the torch path runs anywhere")
    compiler, sources = find(), sources or SOURCES
    files = sorted((*sources.glob("*.c"), *sources.glob("*.h")))
    code = [file for file in files if file.suffix == ".c"]
    if not code:
        raise Unavailable(f"its sources are not in {sources}; install pargo from its wheel, unpacked")
    key = _key(compiler, files)
    folder, refused = _cache()
    if folder is not None:
        found = _load_cached(folder, key, compiler)
        if found is not None:
            return found
        try:
            with _held(folder / "lock", timeout):
                _sweep(folder)
                # whoever held it may have compiled it
                return _load_cached(folder, key, compiler) or _compile(compiler, code, timeout, folder, key)
        except OSError as error:
            refused = f"{folder} cannot be used ({error.strerror or error})"
    try:
        return _compile(compiler, code, timeout, None, key, f"not kept: {refused}")
    except OSError as error:
        raise Unavailable(
            f"what {' '.join(compiler.command)} makes can be kept and loaded nowhere ({refused}; {error.strerror or error}); "
            "set XDG_CACHE_HOME or TMPDIR to a folder that programs may be loaded from, or name another compiler by CC"
        ) from error


def _key(compiler: Compiler, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for part in (compiler.identity, processor(), repr(flags()), str(CALL.size), *(file.name for file in files)):
        digest.update(part.encode() + b"\0")
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _cache() -> tuple[Path | None, str]:
    """The folder, or None and why it is not to be used."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # a relative one is to be ignored, says its specification
        folder = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "pargo" / "kernels"
        if not folder.is_absolute():
            return None, f"HOME={os.environ.get('HOME')!r} is no absolute path"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        return None, f"the cache cannot be made ({error})"
    if not _trusted(folder):
        return None, f"{folder} belongs to another user or can be written to by others"
    return folder, ""


def _trusted(path: Path) -> bool:
    """Only this user, or root, can have put there what is there."""
    status = path.stat()
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _sweep(folder: Path) -> None:
    """Remove what compilations that were killed have left, when they are surely over."""
    for left in folder.glob("*.*/"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE:
                shutil.rmtree(left, ignore_errors=True)


def _load_cached(folder: Path, key: str, compiler: Compiler) -> Library | None:
    """A library that is whole and loads; a broken one is as good as none."""
    for file in folder.glob(f"{key}.*.so"):
        with contextlib.suppress(OSError, Unavailable):
            if _trusted(file) and file.name == _name(key, file):
                return _load(file, compiler)._replace(file=file)
    return None


def _name(key: str, file: Path) -> str:
    return f"{key}.{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}.so"


@contextlib.contextmanager
def _held(file: Path, timeout: float) -> Iterator[None]:
    """One process at a time, but none waits longer than a compilation may take: what follows is right without it."""
    import fcntl

    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        begin, wait = time.monotonic(), 0.01
        while time.monotonic() - begin < timeout:
            try:
                # this process's alone, unlike flock's: a child of a fork holds none of it
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(wait)
                wait = min(2 * wait, 0.2)
            except OSError:
                # a file system without locks
                break
        yield
    finally:
        os.close(descriptor)


def _compile(
    compiler: Compiler, code: list[Path], timeout: float, folder: Path | None, key: str, where: str | None = None
) -> Library:
    made = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=folder))
    try:
        _log.warning(
            "compiling the C kernels for this processor, once, in some seconds, by %s; %s",
            compiler.version(),
            where or f"kept in {folder}",
        )
        begin, file = time.perf_counter(), made / "kernels.so"
        compile_library(compiler, code, file, timeout)
        # whatever the umask says, a library that others can write to is not loaded
        file.chmod(0o700)
        loaded = _load(file, compiler)._replace(seconds=time.perf_counter() - begin)
        if folder is None:
            # what is loaded stays without its file
            return loaded
        kept = folder / _name(key, file)
        os.replace(file, kept)
        return loaded._replace(file=kept)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _load(file: Path, compiler: Compiler) -> Library:
    """Raises Unavailable for what is not a library of this ABI, OSError for what cannot be loaded from where it is."""
    try:
        opened = ctypes.CDLL(str(file))
        opened.pargo_call_bytes.restype = opened.pargo_dtypes.restype = ctypes.c_int64
        size, dtypes = opened.pargo_call_bytes(), opened.pargo_dtypes()
        functions = {name: opened[f"pargo_{name}"] for name in FUNCTIONS}
    except AttributeError as error:
        command = " ".join(compiler.command)
        raise Unavailable(f"what {command} made is not the library ({error}); name another compiler by CC") from error
    if size != CALL.size:
        raise Unavailable(f"the compiled library takes calls of {size} bytes and this version makes them of {CALL.size}")
    for function in functions.values():
        function.argtypes, function.restype = (ctypes.c_char_p,), ctypes.c_int
    known = frozenset(dtype for dtype, number in DTYPES.items() if dtypes >> number & 1)
    return Library(functions, known, compiler, None, None)
