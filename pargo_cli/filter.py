"""``pargo filter``."""

from __future__ import annotations

from pargo_cli.engine_options import add_engine_options


def add_parser(commands) -> None:
    """Add the command."""
    filter = commands.add_parser("filter", allow_abbrev=False, help="keep the pairs of picture and text that fit each other")
    add_engine_options(filter)
    filter.set_defaults(module="pargo_mllm.commands.filter")
