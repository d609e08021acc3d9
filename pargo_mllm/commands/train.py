"""``pargo train``."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
import warnings

import transformers
from torch.distributed.elastic.multiprocessing.errors import record

from pargo_mllm.errors import UserError
from pargo_mllm.files import default_cache
from pargo_mllm.miniature.start import miniature_start
from pargo_mllm.training.recipes import load_recipe
from pargo_mllm.training.run import run_recipe
from pargo_mllm.training.trainer.processes import let_the_first_speak


def run(options: argparse.Namespace) -> None:
    """Train as the recipe and the keys say; those that were not given are absent."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for module in ("transformers", "torch.distributed"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
    changes = {name.removeprefix("key_"): value for name, value in vars(options).items() if name.startswith("key_")}
    # what fails is in torchrun's report, when it started this process
    train = record(_train) if "TORCHELASTIC_ERROR_FILE" in os.environ else _train
    train(options.recipe, changes, options.dry_run)
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


def _train(recipe: str, changes: dict[str, str], dry_run: bool) -> None:
    try:
        loaded = load_recipe(recipe, changes)
        run_recipe(loaded, miniature_start(loaded, default_cache()), dry_run)
    except UserError as error:
        let_the_first_speak()
        raise error.with_traceback(None) from None
