"""``pargo chat``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from pargo_cli.values import positive


def add_parser(commands) -> None:
    """Add the command."""
    chat = commands.add_parser(
        "chat",
        help="ask a model about pictures, several turns",
        description="Ask a model about pictures. Questions come from the keyboard or from standard input, one a line; answers "
        "appear as they are generated. The end of input (Ctrl-D) ends the conversation.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    chat.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="model and processor, as save_pretrained wrote them"
    )
    chat.add_argument("--image", type=Path, action="append", default=[], metavar="FILE", help="may be given several times")
    chat.add_argument("--system", metavar="TEXT", help="what the model is told first (default: as its template says)")
    chat.add_argument("--max-new-tokens", type=positive, default=512, metavar="N", help="at most, an answer")
    chat.add_argument("--temperature", type=_temperature, default=0.0, help="0: always the likeliest token")
    chat.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: the GPU where there is one")
    chat.set_defaults(module="pargo_mllm.commands.chat")


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a number of at least 0")
    return value
