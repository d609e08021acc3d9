"""``pargo caption``."""

from __future__ import annotations

from pargo_cli.engine_options import add_engine_options


def add_parser(commands) -> None:
    """Add the command."""
    caption = commands.add_parser(
        "caption", allow_abbrev=False, help="describe pictures, by an endpoint or by a model of one's own"
    )
    add_engine_options(caption)
    caption.set_defaults(module="pargo_mllm.commands.caption")
