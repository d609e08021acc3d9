"""``pargo validate``."""

from __future__ import annotations

from pargo_cli.engine_options import add_engine_options


def add_parser(commands) -> None:
    """Add the command."""
    validate = commands.add_parser("validate", allow_abbrev=False, help="check training data before anything is trained")
    add_engine_options(validate)
    validate.set_defaults(module="pargo_mllm.commands.validate")
