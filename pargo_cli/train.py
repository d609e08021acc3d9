"""``pargo train``."""

from __future__ import annotations

import argparse

from pargo_cli.keys import meanings, recipe_names


def add_parser(commands) -> None:
    """Add the command."""
    train = commands.add_parser(
        "train",
        help="train one stage as a recipe says",
        description=f"Train one stage. Recipes: {', '.join(recipe_names())}; or a YAML file with the keys below "
        "(and extends: RECIPE).",
        allow_abbrev=False,
    )
    train.add_argument("recipe", metavar="RECIPE|FILE.yaml", help="a recipe's name, or a file")
    train.add_argument("--dry-run", action="store_true", help="check everything and say what would be done; compute nothing")
    keys = train.add_argument_group("keys of a recipe", "in place of the recipe's own; defaults are for what it does not say")
    for name, (means, default) in meanings().items():
        # spelled with - or _
        spellings = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
        text = (f"{means.text} (default: {default})" if default else means.text).replace("%", "%%")
        keys.add_argument(*spellings, dest=f"key_{name}", default=argparse.SUPPRESS, metavar=means.value, help=text)
    train.set_defaults(module="pargo_mllm.commands.train")
