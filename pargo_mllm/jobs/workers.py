"""A worker: a process, and the thread of this one that gives it pieces."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

from pargo_mllm.jobs.engine import JobError
from pargo_mllm.jobs.ledger import Ledger
from pargo_mllm.jobs.outcomes import Failed, Outcome, answered, named, outcome_in

# work that is done in these seconds is done in the process that asked for it
PATIENCE = 0.5
# one process is begun at a time: multiprocessing looks after all of them whenever it begins one
_BEGINNING = threading.Lock()


class Worker(threading.Thread):
    """Begins a process, unless the work is over before, and gives it pieces until it is.

    All are forked from one process that has imported what they need and has no threads: imports are paid once, and no lock is
    held by a thread that the fork left behind.
    """

    def __init__(self, ledger: Ledger, work: Callable[[Any], Any], pieces: Sequence[Any]):
        super().__init__(daemon=True)
        self.ledger, self.work, self.pieces = ledger, work, pieces
        self.process: BaseProcess | None = None

    def run(self) -> None:
        """See above."""
        if self.ledger.wait_until_over(PATIENCE):
            return
        try:
            mine = self._begin()
        except Exception as error:
            self.ledger.refuse(JobError(f"no process could be begun: {error!r}; give fewer --processes."))
            return
        if mine is None or self.process is None:
            return
        with mine:
            self.ledger.join()
            while (index := self.ledger.take()) is not None:
                self.ledger.put(index, self._done(mine, index))
        # it has nothing more to read, and ends
        self.process.join()

    def end(self, whole: bool) -> None:
        """Wait for the end of the process, or, unless the work is done, make it."""
        process = self.process
        if process is None:
            # it is being begun, and will find that the work is over
            return
        if not whole:
            process.kill()
        self.join()

    def _begin(self) -> connection.Connection | None:
        context = multiprocessing.get_context("forkserver")
        with _BEGINNING:
            if self.ledger.over:
                return None
            theirs, mine = context.Pipe()
            context.set_forkserver_preload(["pargo_cli.one_thread", "pargo_mllm", _module(self.work)])
            # Ctrl-C is for the process that asked for the work: what is begun from here does not hear it either. The tracker,
            # whose beginning would undo that, is begun before
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            with theirs:
                process.start()
            self.process = process
        return mine

    def _done(self, mine: connection.Connection, index: int) -> Outcome:
        try:
            mine.send_bytes(pickle.dumps((self.work, self.pieces[index])))
            answer = mine.recv_bytes()
        except (EOFError, OSError):
            return Failed(JobError(self._death(index)))
        except Exception as error:
            return Failed(error)
        return outcome_in(answer)

    def _death(self, index: int) -> str:
        assert self.process is not None
        self.process.join(5)
        code = self.process.exitcode
        how = f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with status {code}"
        return (
            f"the process that worked on {named(index, len(self.pieces), self.pieces[index])} {how}, perhaps for want of "
            "memory. What was done is kept: run the same command again, with fewer --processes."
        )


def _module(work: Callable) -> str:
    while hasattr(work, "func"):
        work = work.func
    return work.__module__


def _serve(pipe: connection.Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        while True:
            pipe.send_bytes(answered(pipe.recv_bytes()))
    except (EOFError, OSError):
        return


def _leave_with_parent() -> None:
    """A piece whose outcome nobody takes is not finished: a rerun would write the same file at the same time."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
