"""``pargo train``."""

from __future__ import annotations

import argparse
import warnings

import transformers

from pargo_mllm.commands.processes import run_in_processes
from pargo_mllm.files import default_cache
from pargo_mllm.miniature.start import miniature_start
from pargo_mllm.training.recipes import load_recipe
from pargo_mllm.training.run import run_recipe


def run(options: argparse.Namespace) -> None:
    """Train as the recipe and the keys say; those that were not given are absent."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for module in ("transformers", "torch.distributed"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
    changes = {name.removeprefix("key_"): value for name, value in vars(options).items() if name.startswith("key_")}
    run_in_processes(lambda: _train(options.recipe, changes, options.dry_run))


def _train(recipe: str, changes: dict[str, str], dry_run: bool) -> None:
    loaded = load_recipe(recipe, changes)
    run_recipe(loaded, miniature_start(loaded, default_cache()), dry_run)
