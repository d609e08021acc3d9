"""``pargo chat``."""

from __future__ import annotations

import argparse
import sys

import transformers
from transformers import TextStreamer

from pargo_mllm.answering import generation_settings
from pargo_mllm.chatting import Chat
from pargo_mllm.data.pictures import load_picture
from pargo_mllm.errors import UserError
from pargo_mllm.loading import chosen_device, open_model


class ChatError(UserError):
    """Something to say that is no text, or a question that could not be asked."""


def run(options: argparse.Namespace) -> None:
    """Chat until the input ends."""
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
