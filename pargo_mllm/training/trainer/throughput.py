"""What a training step does in how much time: tokens, pictures, the share of the hardware's speed, waiting for data, memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from pargo_mllm.data.feeding.contents import BatchContents
from pargo_mllm.training.trainer.flops import StepFlops, peak_flops

GIB = 2**30


class ThroughputMeter:
    """Adds up what the batches of a process hold, and tells what all processes did since it was last asked.

    Args:
        flops: counts operations; without it none are reported.
        device: what the process computes on.
    """

    def __init__(self, flops: StepFlops | None, device: torch.device):
        self.flops = flops
        self.device = device
        self.restart()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent in it counts as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def restart(self) -> None:
        """Forget what was not reported: time that is no training (checkpoints, evaluation) is behind."""
        self._start = time.perf_counter()
        self._waited = 0.0
        self._counts = torch.zeros(3, dtype=torch.float64)

    def add(self, contents: BatchContents) -> None:
        """Count a batch."""
        self._counts += torch.tensor([contents.tokens, contents.num_pictures, 0], dtype=torch.float64)
        if self.flops is not None:
            self._counts[2] += self.flops.step(contents)

    def report(self) -> dict[str, float]:
        """What was done since the last report, by all processes; every one of them must ask.

        Returns:
            ``tokens_per_second``, ``images_per_second``; ``tflops_per_device`` and, where the device's peak is known, ``mfu``
            (0...1); ``data_wait`` (share of the time, 0...1, of the process that waited longest); ``memory_gib``: the most
            that a process has held so far, of the GPU's memory or else of its own.
        """
        seconds = time.perf_counter() - self._start
        counts = self._counts.clone()
        worst = torch.tensor([self._waited / seconds, peak_memory(self.device) / GIB], dtype=torch.float64)
        processes = 1
        if dist.is_available() and dist.is_initialized():
            processes = dist.get_world_size()
            counts, worst = counts.to(self.device), worst.to(self.device)
            dist.all_reduce(counts)
            dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        tokens, pictures, flops = counts.tolist()
        waited, memory = worst.tolist()
        found = {"tokens_per_second": tokens / seconds, "images_per_second": pictures / seconds}
        if self.flops is not None:
            found["tflops_per_device"] = flops / seconds / processes / 1e12
            peak = peak_flops(self.device)
            if peak is not None:
                found["mfu"] = flops / seconds / processes / peak
        self.restart()
        return {**found, "data_wait": waited, "memory_gib": memory}


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most: of the GPU's memory, or else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
