"""What the first call on a machine costs: the C kernels compiled into an empty cache, then had from it, each in a process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pargo_kernels

_PROGRAM = """
import time, torch
from pargo_kernels.ops import partial_global_attention
query, key = torch.ones(1, 1, 3, 16), torch.ones(1, 1, 4, 16)
begin = time.perf_counter()
partial_global_attention(query, key, key, 2, impl="c")
print(time.perf_counter() - begin)
"""


class FirstUse(NamedTuple):
    """Seconds of a process's first call by the C kernels."""

    # nothing is cached: it compiles
    compiling: float
    # an earlier process has compiled
    cached: float


def first_use() -> FirstUse | str:
    """Both first calls on this machine, or why there are none."""
    # the kernels of this process, wherever they were imported from
    found = str(Path(pargo_kernels.__file__).parents[1])
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache, "PYTHONPATH": found}
        command = [sys.executable, "-c", _PROGRAM]
        try:
            done = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
        except subprocess.CalledProcessError as error:
            return error.stderr.strip().splitlines()[-1]
    return FirstUse(*(float(one.stdout) for one in done))
