"""``pargo train``."""

from __future__ import annotations

import argparse
import os
import warnings
from dataclasses import fields

import transformers
from torch.distributed.elastic.multiprocessing.errors import record

from pargo_mllm.configuration import PROJECTORS
from pargo_mllm.errors import UserError
from pargo_mllm.files import default_cache
from pargo_mllm.miniature.start import miniature_start
from pargo_mllm.training.recipes import Recipe, load_recipe, names
from pargo_mllm.training.run import run_recipe
from pargo_mllm.training.trainer.processes import let_the_first_speak

_HELP = {
    "image_root": ("DIR", "where LLaVA files have their pictures; their names may then be absolute paths in it too"),
    "data": ("PATH", "a COCO-style folder, a LLaVA JSON file, webdataset shards, scenes; or '[{path: A, weight: 0.7}, …]'"),
    "model": ("DIR", "model and processor to start from; stage 2 starts from the folder of stage 1"),
    "output": ("DIR", "the folder that training ends with; the same command again goes on or says that it is finished"),
    "projector": ("TYPE", f"of stage 1: {', '.join(PROJECTORS)}; or arguments, '{{projector_type: mlp, …}}'"),
    "seed": ("N", "of the projector, the views and the order of training"),
}


def add_parser(commands) -> None:
    """Add the command."""
    train = commands.add_parser(
        "train",
        help="train one stage as a recipe says",
        description=f"Train one stage. Recipes: {', '.join(names())}; or a YAML file with the keys below "
        "(and extends: RECIPE).",
        allow_abbrev=False,
    )
    train.add_argument("recipe", metavar="RECIPE|FILE.yaml", help="a recipe's name, or a file")
    train.add_argument("--dry-run", action="store_true", help="check everything and say what would be done; compute nothing")
    for field in fields(Recipe):
        # the recipe's keys, spelled with - or _
        spellings = dict.fromkeys((f"--{field.name.replace('_', '-')}", f"--{field.name}"))
        metavar, text = _HELP.get(field.name, ("VALUE", f"in place of the recipe's {field.name}"))
        train.add_argument(*spellings, dest=f"key_{field.name}", default=argparse.SUPPRESS, metavar=metavar, help=text)
    train.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for module in ("transformers", "torch.distributed"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
    changes = {name.removeprefix("key_"): value for name, value in vars(options).items() if name.startswith("key_")}
    # what fails is in torchrun's report, when it started this process
    run = record(_train) if "TORCHELASTIC_ERROR_FILE" in os.environ else _train
    run(options.recipe, changes, options.dry_run)


def _train(recipe: str, changes: dict[str, str], dry_run: bool) -> None:
    try:
        loaded = load_recipe(recipe, changes)
        run_recipe(loaded, miniature_start(loaded, default_cache()), dry_run)
    except UserError as error:
        let_the_first_speak()
        raise error.with_traceback(None) from None
