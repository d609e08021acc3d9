"""The command line: ``pargo`` or ``python -m pargo_mllm``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import pargo_kernels
from pargo_mllm.checkpoints import convert_release
from pargo_mllm.commands import chat, demo, merge, train
from pargo_mllm.errors import UserError

COMMANDS = (demo, train, chat, merge, convert_release)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 2 for what a user can put right, 130 when interrupted."""
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(f"pargo {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="pargo", description="ParGo, the partial-global projector, in a multimodal model.")
    parser.add_argument("--version", action="version", version=f"pargo {pargo_kernels.__version__}")
    commands = parser.add_subparsers(metavar="command", dest="command", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser
