"""``pargo chat``."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import transformers
from transformers import TextStreamer

from pargo_mllm.answering import generation_settings
from pargo_mllm.chatting import Chat
from pargo_mllm.data.pictures import load_picture
from pargo_mllm.errors import UserError
from pargo_mllm.loading import chosen_device, open_model


class ChatError(UserError):
    """Something to say that is no text, or a question that could not be asked."""


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
    chat.add_argument("--max-new-tokens", type=_positive, default=512, metavar="N", help="at most, an answer")
    chat.add_argument("--temperature", type=_temperature, default=0.0, help="0: always the likeliest token")
    chat.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: the GPU where there is one")
    chat.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    if options.system is not None:
        _check_text(options.system, "--system")
    pictures = [load_picture(path) for path in options.image]
    device = chosen_device(options.device)
    transformers.logging.disable_progress_bar()
    model, processor = open_model(options.model)
    model = model.eval().to(device)
    generation = generation_settings(options.max_new_tokens, options.temperature)
    chat = Chat(model, processor, pictures, options.system, generation)
    failed = 0
    for question in _questions():
        try:
            chat.ask(question, TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True))
        except ValueError as error:
            print(f"pargo chat: {error}", file=sys.stderr)
            failed += 1
    if failed and not sys.stdin.isatty():
        raise ChatError(
            f"{failed} {'question' if failed == 1 else 'questions'} could not be asked; what was wrong stands above."
        )


def _questions():
    """Lines of standard input without the empty ones; a person at a keyboard gets a prompt."""
    asks = sys.stdin.isatty()
    while True:
        if asks:
            print("> ", end="", flush=True)
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise ChatError(f"standard input holds bytes that are no {error.encoding} text ({error.reason}).") from error
        if not line:
            return
        _check_text(line, "standard input")
        if line.strip():
            yield line.strip()


def _check_text(text: str, where: str) -> None:
    """Where the locale is C, Python hands over bytes that are no UTF-8 as halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ChatError(f"{where} holds bytes that are no UTF-8 text.") from error


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 1 to {2**31 - 1}")
    return int(text)


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a number of at least 0")
    return value
