"""A process that has imported everything and forks `pargo` commands: real processes without the seconds of their imports.

Run as a program it is the server; :class:`ForkServer` talks to it.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from pargo_mllm.cli import main
from pargo_mllm.miniature.cache import settings_key
from tests.mllm.made.forked import own_bars


@dataclass
class Command:
    """A command that runs in a process of its own."""

    server: "ForkServer"
    pid: int
    log: Path

    def is_alive(self):
        """Whether it has not ended: until it is waited for, its number is not given to another process."""
        return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"

    def kill(self):
        """kill -9."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self):
        """Its exit status, negative for the signal that ended it."""
        return self.server.ask({"wait": self.pid})


class ForkServer:
    """Starts commands. As a context manager it ends the server."""

    def __init__(self, environment):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.mllm.made.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def start(self, arguments, log, **environment):
        """Run ``pargo`` with these arguments; what it says goes to ``log``."""
        request = {"arguments": [str(word) for word in arguments], "log": str(log), "environment": environment}
        return Command(self, self.ask(request), Path(log))

    def ask(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def serve():
    torch.set_num_threads(1)
    # what a command would import late, or do once a process
    for module in ("llama.modeling_llama", "siglip.modeling_siglip"):
        importlib.import_module(f"transformers.models.{module}")
    settings_key({})
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            own_bars()
            log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for there, here in ((nothing, 0), (log, 1), (log, 2)):
                os.dup2(there, here)
            os.environ.update(request["environment"])
            os._exit(main(request["arguments"]))
        print(json.dumps(pid), flush=True)


if __name__ == "__main__":
    serve()
