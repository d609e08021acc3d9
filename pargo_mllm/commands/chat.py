"""``pargo chat``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import transformers
from transformers import TextStreamer

from pargo_mllm.answering import generation_settings
from pargo_mllm.chatting import Chat
from pargo_mllm.data.pictures import load_picture
from pargo_mllm.loading import chosen_device, open_model


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
    chat.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help="at most, an answer")
    chat.add_argument("--temperature", type=float, default=0.0, help="0: always the likeliest token")
    chat.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: the GPU where there is one")
    chat.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
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
