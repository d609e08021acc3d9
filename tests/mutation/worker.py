"""Runs tests on one mutant after another in a copy of the package: ``python -m tests.mutation.worker`` in that copy.

What the tests import, except for the package, is imported once: each run is a fork of this process. A line of JSON comes in for
each run, ``{"file", "text", "stamp", "arguments", "seconds", "log"}``, and one goes out, ``{"status", "seconds"}``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

POLL = 0.01


def run_tests(arguments: list[str], seconds: float, log: str) -> int | None:
    """pytest's exit status (128 and more: killed by a signal), or None where it took too long."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os._exit(_pytest(arguments))
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                code, child = os.waitstatus_to_exitcode(status), 0
                return code if code >= 0 else 128 - code
            time.sleep(POLL)
        return None
    finally:
        if child:
            # the tests' own processes too; in the moment before it has a group of its own it has none
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _pytest(arguments: list[str]) -> int:
    # a fork ends here whatever happens: it must never go back into the loop
    try:
        import pytest

        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *arguments]))
        sys.stdout.flush()
        return status
    except BaseException:
        return 3


def main(preload: list[str]) -> None:
    """Serve until the input ends, or the process is asked to end: tests that run end with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    for name in preload:
        importlib.import_module(name)
    # the answers keep this pipe; whatever else is printed goes to stderr
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        task = json.loads(line)
        path, before = Path(task["file"]), None
        if task["text"] is not None:
            before, times = path.read_text(), path.stat()
            path.write_text(task["text"])
            # Python takes its compiled form for new where size and second are equal
            os.utime(path, (task["stamp"], task["stamp"]))
        started = time.monotonic()
        status = run_tests(task["arguments"], task["seconds"], task["log"])
        if before is not None:
            path.write_text(before)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        answers.write(json.dumps({"status": status, "seconds": round(time.monotonic() - started, 2)}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
