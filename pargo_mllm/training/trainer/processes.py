"""The processes of a run, as torchrun starts them: one a GPU. Without torchrun there is one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from pargo_mllm.errors import UserError

# what the first process does alone before training (stage 0) may take that long
PATIENCE = timedelta(days=1)
# what all processes do is done by all of them within that, or the run ends
TIMEOUT = timedelta(minutes=30)
# after that long an error is not the first process's too
GRACE = 30.0
_READY = "pargo/ready"
Value = TypeVar("Value")
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


class ProcessesError(UserError):
    """Processes that cannot train together; the message says what is wrong and how to start them."""


@dataclass(frozen=True)
class Processes:
    """This process among the others.

    Args:
        rank: of this one; the first, 0, says everything, writes everything, and does alone what is done once.
        size: how many there are.
        local_rank: of this one on its machine: the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def of_environment(cls) -> Processes:
        """What torchrun's variables say.

        Raises:
            ProcessesError: if some are missing, or are no numbers.
        """
        given = {name: os.environ[name] for name in _NAMES if name in os.environ}
        if not given:
            return cls()
        if len(given) < len(_NAMES) or not all(value.isdigit() for value in given.values()):
            said = ", ".join(f"{name}={given.get(name)}" for name in _NAMES)
            raise ProcessesError(f"{said}: all of them must be numbers, as torchrun sets them, or none of them set.")
        rank, size, local_rank = (int(given[name]) for name in _NAMES)
        return cls(rank, size, local_rank)

    @property
    def is_first(self) -> bool:
        """Whether this is the first of them."""
        return self.rank == 0

    @contextmanager
    def joined(self, device: str, alone_too: bool = False) -> Iterator[None]:
        """Inside the block the processes can send each other tensors. It begins when the first process enters it.

        Args:
            device: "cpu" or "cuda".
            alone_too: a group for one process too; engines that shard need one.

        Raises:
            ProcessesError: for more processes than GPUs on a machine.
        """
        if device == "cuda":
            if self.local_rank >= torch.cuda.device_count():
                raise ProcessesError(
                    f"LOCAL_RANK={self.local_rank}: this machine has {torch.cuda.device_count()} GPUs; start at most so many "
                    "processes on it (torchrun's --nproc-per-node)."
                )
            torch.cuda.set_device(self.local_rank)
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        if self.size > 1:
            store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
            if self.is_first:
                store.set(_READY, "")
            else:
                store.wait([_READY], PATIENCE)
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        elif alone_too:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        try:
            yield
        except BaseException:
            # others may be in the middle of something with this one: its end is what ends them
            if self.size == 1:
                _leave()
            raise
        _leave()


def let_the_first_speak() -> None:
    """What fails in every process is said by the first one: torchrun ends the others when it ends.

    Returns when the first one is still there after a while: then the error is this process's own.
    """
    if not is_first_process():
        time.sleep(GRACE)


def is_first_process() -> bool:
    """Whether this process may show bars and print."""
    return os.environ.get("RANK", "0") == "0"


def from_the_first(value: Value) -> Value:
    """What the first process gives, in every process; picklable. Between processes that have joined."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def from_all(value: Value) -> list[Value]:
    """What every process that has joined gives, in each of them, by rank; picklable. Each waits for all."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def kept_environment() -> Iterator[None]:
    """What libraries set in the environment inside the block (accelerate does, for deepspeed) is gone behind it."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def forget_others() -> None:
    """From here on no library learns of other processes: for what the first one computes before the others join."""
    for name in (*_NAMES, "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
