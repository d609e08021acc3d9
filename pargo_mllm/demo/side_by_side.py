"""A second process that works beside this one: two processes with one thread each beat one with two at a miniature's size."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait

import torch
from tqdm.auto import tqdm


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes with one thread inside the block: at a miniature's size more of them mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def beside(work: Callable[[], object], say: Callable[[str], None]) -> Iterator[None]:
    """Run ``work()`` in a second process while the block runs; the block's end waits for it.

    ``work`` leaves its results in a cache. Should it fail, the caller finds nothing there, does the work itself and meets
    the error where it can be told to the user. The second process ends when this one does, even by kill -9.

    Args:
        work: a picklable callable.
        say: gets a line when the second process failed.
    """
    spawn = multiprocessing.get_context("spawn")
    lock = spawn.RLock()
    tqdm.set_lock(lock)
    process = spawn.Process(target=_run, args=(work, lock), daemon=True)
    process.start()
    try:
        yield
        process.join()
    finally:
        if process.is_alive():
            process.terminate()
            process.join()
    if process.exitcode:
        say(f"the second process ended with exit code {process.exitcode}; this one goes on alone")


def _run(work: Callable[[], object], lock) -> None:
    tqdm.set_lock(lock)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        work()
    except Exception:
        # the parent meets the same error when it does the work itself
        raise SystemExit(1) from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
