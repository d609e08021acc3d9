"""Commands that torchrun may start several times: their errors and their ends."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable

from torch.distributed.elastic.multiprocessing.errors import record

from pargo_mllm.errors import UserError
from pargo_mllm.training.trainer.processes import let_the_first_speak


def run_in_processes(work: Callable[[], None]) -> None:
    """Do what every process does. What fails is in torchrun's report; of what all fail of, the first process speaks."""

    def told() -> None:
        try:
            work()
        except UserError as error:
            let_the_first_speak()
            raise error.with_traceback(None) from None

    (record(told) if "TORCHELASTIC_ERROR_FILE" in os.environ else told)()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _leave()


def _leave() -> None:
    """End this process, its work done.

    While Python takes itself apart, threads that torch's process groups leave behind may abort it, and torchrun would call a
    run failed that is finished.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
