"""Pieces of work for engines: functions that other processes import."""

import os
import signal
import time
from pathlib import Path

import torch

from pargo_mllm.errors import UserError


class DamagedLine(UserError):
    """An error whose constructor takes other things than its message."""

    def __init__(self, file, line):
        super().__init__(f"{file}, line {line}: damaged")
        self.file, self.line = file, line


class RenamedLine(UserError):
    """An error that takes another message than it gives: made anew of that one, it would say another thing."""

    def __init__(self, file, line=1):
        super().__init__(f"{file}, line {line}")


class Unspeakable(UserError):
    """An error that cannot be sent: it holds what no other process can have."""

    def __init__(self, told):
        super().__init__(told)
        self.held = lambda: told


def told(piece):
    """The piece, the process, its threads for arithmetic and what its libraries were told of threads."""
    return piece, os.getpid(), torch.get_num_threads(), os.environ.get("OPENBLAS_NUM_THREADS")


def square(number):
    return number * number


def slowly(number):
    """Long enough that a pool pays."""
    time.sleep(0.2)
    return told(number)


def marked(piece):
    """Leaves a file; the one that waits does so for ever."""
    folder, number, waits = piece
    Path(folder, f"begun-{number}").touch()
    time.sleep(600 if waits else 0.2)
    Path(folder, f"done-{number}").touch()
    return number


def failing(piece):
    """Leaves a file, or fails: a piece is (folder, number, seconds, how).

    One is "killed" as soon as an "awaited" one is under way.
    """
    folder, number, seconds, how = piece
    time.sleep(seconds)
    if how == "damaged":
        raise DamagedLine("data.json", number)
    if how == "renamed":
        raise RenamedLine("data.json", number)
    if how == "unspeakable":
        raise Unspeakable("told in words alone")
    if how == "bug":
        raise KeyError("no such key")
    if how == "disk":
        raise OSError(28, "No space left on device", f"{folder}/file")
    if how == "memory":
        raise MemoryError
    if how == "awaited":
        Path(folder, "begun").touch()
        time.sleep(1)
    if how == "killed":
        while not Path(folder, "begun").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "always killed" or (how == "killed once" and not Path(folder, "died").exists()):
        Path(folder, "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "unsendable":
        return lambda: number
    Path(folder, str(number)).touch()
    return number
