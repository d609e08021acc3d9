"""`pargo train` on a miniature that learns nothing and runs everything."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import torch
from safetensors.torch import load_file

from pargo_mllm.cli import main
from tests.mllm.made.caches import own_cache

SHORT = ["--steps", "12", "--save-steps", "4", "--batch-size", "4", "--views", "12", "--bf16", "false", "--report-to", "none"]
# Adam's steps are nearly proportional to the gradient: rounding stays as small as it is
GENTLE = ["--learning-rate", "0.5", "--projector-learning-rate", "0.5", "--adam-epsilon", "1.0"]


@contextmanager
def cache_in(folder):
    """Stage 0 is kept there, and trained once for all tests of the block."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = own_cache(folder)
    try:
        yield
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def train(*arguments):
    return main(["train", *map(str, arguments)])


def torchrun(*arguments, processes=2, **environment):
    """The command that starts it on several processes, and the environment it needs."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*start, "-m", "pargo_mllm", "train", *map(str, arguments)]
    return {"args": command, "env": {**os.environ, "OMP_NUM_THREADS": "1", **environment}, "text": True}


def train_on(processes, *arguments, **environment):
    """Run it to its end under torchrun."""
    done = subprocess.run(**torchrun(*arguments, processes=processes, **environment), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def mini1(data, output, *more):
    return ["mini-stage1", "--miniature", "tiny", "--data", data, "--output", output, *SHORT, *more]


def mini2(data, model, output, *more):
    return ["mini-stage2", "--data", data, "--model", model, "--output", output, *SHORT, "--lora-rank", "4", *more]


def weights(folder):
    return load_file(folder / "model.safetensors")


def changed(first, second):
    """Names of the tensors that differ in a bit."""
    first, second = weights(first), weights(second)
    assert set(first) == set(second)
    return {name for name in first if not torch.equal(first[name], second[name])}


def losses(folder):
    return [entry["loss"] for entry in json.loads((folder / "training_log.json").read_text())]
