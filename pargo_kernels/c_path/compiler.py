"""The C compiler of this machine: which it is, how it is told from another, and how it makes a library of the kernels."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

NAMES = ("cc", "gcc", "clang")
# some compilers compute without NaN, infinity and an order of sums unless they are told otherwise
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-fno-fast-math")
LIBRARIES = ("-lm", "-ldl")
# how a compiler is told to use every instruction of this processor
NATIVE = {"x86_64": "-march=native", "amd64": "-march=native", "aarch64": "-mcpu=native", "arm64": "-mcpu=native"}
# a compiler that takes longer hangs: the kernels take seconds, on a machine with as many processes as cores
TIMEOUT = 120.0

# lines of /proc/cpuinfo by which -march=native may decide
PROCESSOR = {
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
    "Features", "CPU implementer", "CPU architecture", "CPU variant", "CPU part",
}  # fmt: skip


class Unavailable(Exception):
    """Why there is no library; its message ends with the way out."""


class Compiler(NamedTuple):
    """A command, and the words of it that are files."""

    command: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def identity(self) -> str:
        """Differs between compilers, and between versions of one: by sizes and times of files, so that no process starts."""
        stamps = [(os.path.realpath(file), os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in self.files]
        return repr((self.command, stamps))

    def version(self) -> str:
        """The first line of what it says of itself."""
        try:
            done = subprocess.run(
                [*self.command, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False
            )
        except (OSError, RuntimeError, subprocess.SubprocessError):
            return "unknown version"
        lines = done.stdout.decode(errors="replace").splitlines()
        return lines[0] if lines else "unknown version"


def find() -> Compiler:
    """The compiler of ``$CC`` (a command with arguments, if it likes), else the first of ``NAMES`` on the path.

    Raises:
        Unavailable: if there is none. A ``$CC`` that is not there is not replaced by another.
    """
    wanted = os.environ.get("CC", "").strip()
    if not wanted:
        for name in NAMES:
            file = shutil.which(name)
            if file is not None:
                return Compiler((file,), (file,))
        raise Unavailable(f"no C compiler is on the path ({', '.join(NAMES)}); install one, or name one by the variable CC")
    try:
        words = shlex.split(wanted)
    except ValueError as error:
        raise Unavailable(f"CC={wanted!r} is no command ({error}); unset or mend it") from error
    # a wrapper's compiler is a word of its own: ccache gcc
    files = tuple(file for file in map(shutil.which, words) if file is not None)
    if shutil.which(words[0]) is None:
        raise Unavailable(f"CC={wanted!r} is not on the path; unset or mend it")
    return Compiler(tuple(words), files)


def processor() -> str:
    """What tells this processor's instructions from another's."""
    lines = []
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        # the first processor's alone: a machine with hundreds takes its time
        for line in file:
            if not line.strip():
                break
            if line.split(":")[0].strip() in PROCESSOR:
                lines.append(line)
    return repr((platform.system(), platform.machine(), "".join(lines) or platform.processor()))


def flags() -> tuple[str, ...]:
    """Of every compilation here."""
    native = NATIVE.get(platform.machine().lower())
    return FLAGS if native is None else (*FLAGS, native)


def compile_library(compiler: Compiler, sources: list[Path], library: Path, timeout: float = TIMEOUT) -> None:
    """Make ``library`` of ``sources``, all in one run of the compiler.

    Raises:
        Unavailable: if the compiler cannot be started, fails, takes longer than ``timeout`` seconds, or makes nothing.
    """
    command = [*compiler.command, *flags(), *map(str, sources), "-o", str(library), *LIBRARIES]
    named = shlex.join(compiler.command)
    with tempfile.TemporaryFile(dir=library.parent) as said:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                # its own intermediate files: the system's folder for them may be full, or not ours to write to
                env=os.environ | {"TMPDIR": str(library.parent)},
                # the processes that it starts end with it
                start_new_session=True,
            )
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            raise Unavailable(f"{named} cannot be started ({error}); name another C compiler by the variable CC") from error
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{named} did not end in {timeout:g} s; name another C compiler by the variable CC") from None
        finally:
            if process.poll() is None:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if status != 0:
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines()
            first = next((line for line in lines if "error" in line.lower()), lines[0] if lines else "it said nothing")
            raise Unavailable(f"{named} failed with status {status} ({first}); name another C compiler by the variable CC")
    if not library.is_file():
        raise Unavailable(f"{named} ended well and made nothing; name another C compiler by the variable CC")
