"""``pargo``: arguments are read first, then the command is imported and run."""

from __future__ import annotations

import argparse
import errno
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from pargo_cli import (
    align,
    assemble,
    caption,
    chat,
    convert_release,
    data,
    demo,
    eval,
    filter,
    merge,
    report,
    score,
    train,
    validate,
)
from pargo_cli.errors import UserError
from pargo_cli.judge_options import without_secrets

COMMANDS = (demo, assemble, data, validate, caption, filter, train, chat, eval, score, report, align, merge, convert_release)

# where there is no room for what is written; as a shell counts a command that SIGPIPE ended
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_UNREAD = 128 + 13


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: what the command says (0 where it says nothing), 2 for what a user can put right,
    130 when interrupted, 141 where nobody reads what it prints any more.
    """
    options = build_parser().parse_args(arguments)
    # what a result says that it came of
    options.words = ["pargo", *without_secrets(sys.argv[1:] if arguments is None else arguments)]
    prepare()
    try:
        run = import_module(options.module).run
        if not gc.isenabled():
            gc.freeze()
            gc.enable()
        return _printed(run(options) or 0, f"pargo {options.command}")
    except BrokenPipeError:
        return _unread()
    except OSError as error:
        if error.errno not in _FULL:
            raise
        print(f"pargo {options.command}: cannot write: {error}", file=sys.stderr)
        _drop()
        return 2
    except UserError as error:
        print(f"pargo {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _printed(status: int, command: str, text: str = "") -> int:
    """The status, once all that was printed is written, and the text; another one where it cannot be."""
    try:
        print(text, end="", flush=True)
        return status
    except BrokenPipeError:
        return _unread()
    except OSError as error:
        print(f"{command}: standard output cannot be written: {error.strerror or error}", file=sys.stderr)
        _drop()
        return 2


def _unread() -> int:
    _drop()
    return _UNREAD


def _drop() -> None:
    """Let go of what is printed and cannot be written, or the interpreter would try once more at its end."""
    try:
        target = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, target)
    os.close(nowhere)


class _Parser(argparse.ArgumentParser):
    """argparse lets its help vanish without a word where it cannot be written."""

    def print_help(self, file=None) -> None:
        """See argparse."""
        status = _printed(0, self.prog, self.format_help())
        if status:
            raise SystemExit(status)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; ``module`` is the one whose ``run`` takes what was parsed."""
    parser = _Parser(prog="pargo", description="ParGo, the partial-global projector, in a multimodal model.")
    parser.add_argument("--version", action="version", version=f"pargo {_version()}")
    commands = parser.add_subparsers(metavar="command", dest="command", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def prepare() -> None:
    """What must be set before torch is imported; behind that, nothing is.

    Threads that wait for each other sleep, unless the environment says otherwise. By default they spin: beside other work two
    of them take many times as long as one, each spinning on the core that the other one needs.

    The garbage collector rests until :func:`main` has imported the command: thousands of modules are made and none is freed,
    and to look through them again and again takes a sixth of the time.

    Where no terminal shows them, bars say how far they are twice a minute: in a file nothing is written over.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        gc.disable()
        if sys.stderr is None or not sys.stderr.isatty():
            os.environ.setdefault("TQDM_MININTERVAL", "30")


def _version() -> str:
    try:
        return version("pargo")
    except PackageNotFoundError:
        return "of a checkout that is not installed"
