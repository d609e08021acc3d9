"""``pargo chat``."""

from __future__ import annotations

import argparse
import sys

import transformers
from transformers import TextStreamer

from pargo_mllm.answering import generation_settings
from pargo_mllm.chatting import Chat
from pargo_mllm.data.pictures import load_picture
from pargo_mllm.loading import chosen_device, open_model


def run(options: argparse.Namespace) -> None:
    """Chat until the input ends."""
    pictures = [load_picture(path) for path in options.image]
    device = chosen_device(options.device)
    transformers.logging.disable_progress_bar()
    model, processor = open_model(options.model)
    model = model.eval().to(device)
    generation = generation_settings(options.max_new_tokens, options.temperature)
    chat = Chat(model, processor, pictures, options.system, generation)
    for question in _questions():
        try:
            chat.ask(question, TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True))
        except ValueError as error:
            print(f"pargo chat: {error}", file=sys.stderr)


def _questions():
    """Lines of standard input without the empty ones; a person at a keyboard gets a prompt."""
    asks = sys.stdin.isatty()
    while True:
        if asks:
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
