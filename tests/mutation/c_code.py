"""What the compiler of this machine makes of a mutant of C: nothing, the same program, or another."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

FOLDER = Path("pargo_kernels/c_path")


def what_is_wrong(root: Path, file: str, text: str) -> str | None:
    """Why a mutated text cannot be judged here: its line is not compiled on this machine, or does not compile."""
    with tempfile.TemporaryDirectory() as scratch:
        mutated = _copy(root, Path(scratch), file, text)
        if _preprocessed(mutated) == _preprocessed(root / FOLDER):
            return "not compiled here"
        done = _compiler(mutated, "-fsyntax-only", *_sources(mutated))
        return "does not compile" if done.returncode else None


def same_machine_code(root: Path, file: str, text: str) -> bool:
    """Whether the compiler makes the very same library of it: then no test can tell."""
    with tempfile.TemporaryDirectory() as scratch:
        made = []
        # from one folder: its path may be in what is made
        for source in (None, text):
            sources = _copy(root, Path(scratch), file, source)
            _compiler(sources, *_sources(sources), "-o", "kernels.so", "-lm").check_returncode()
            made.append((sources / "kernels.so").read_bytes())
        return made[0] == made[1]


def _copy(root: Path, folder: Path, file: str, text: str | None) -> Path:
    sources = folder / "c_path"
    shutil.copytree(root / FOLDER, sources, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    if text is not None:
        (sources / Path(file).name).write_text(text)
    return sources


def _sources(folder: Path) -> list[str]:
    return sorted(source.name for source in folder.glob("*.c"))


def _preprocessed(folder: Path) -> bytes:
    return _compiler(folder, "-E", "-P", *_sources(folder)).stdout


def _compiler(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    from pargo_kernels.c_path.compiler import find, flags

    # preprocessing and checking link nothing
    given = [flag for flag in flags() if flag != "-shared" or "-o" in arguments]
    return subprocess.run([*find().command, *given, *arguments], cwd=folder, capture_output=True, check=False)
