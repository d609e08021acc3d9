"""``pargo chat``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import TextStreamer

from pargo_mllm.chatting import Chat
from pargo_mllm.data.pictures import PictureError, load_picture
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor


class ChatError(ValueError):
    """There is nothing to chat with; the message says why."""


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
    chat.set_defaults(run=_run, errors=(ChatError, PictureError))


def _run(options: argparse.Namespace) -> None:
    pictures = [load_picture(path) for path in options.image]
    model, processor = _load(options.model, options.device)
    generation: dict[str, Any] = {"max_new_tokens": options.max_new_tokens, "do_sample": options.temperature > 0}
    if options.temperature > 0:
        generation["temperature"] = options.temperature
    chat = Chat(model, processor, pictures, options.system, generation)
    for question in _questions():
        try:
            chat.ask(question, TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True))
        except ValueError as error:
            print(f"pargo chat: {error}", file=sys.stderr)


def _load(folder: Path, device: str) -> tuple[ParGoForConditionalGeneration, ParGoProcessor]:
    for name in ("config.json", "processor_config.json"):
        if not (folder / name).is_file():
            raise ChatError(f"{folder} has no {name}; give a folder that holds a model and its processor.")
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ChatError(f"{folder / 'config.json'} is no configuration: {error}.") from error
    if kind != ParGoForConditionalGeneration.config_class.model_type:
        raise ChatError(f"{folder} holds a model of type {kind!r}; pargo chat runs ParGo models.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ChatError("--device cuda: torch finds no GPU here; use --device cpu.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    transformers.logging.disable_progress_bar()
    model = ParGoForConditionalGeneration.from_pretrained(folder).eval()
    return model.to(device), ParGoProcessor.from_pretrained(folder)


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
