"""``pargo convert-release``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands) -> None:
    """Add the command."""
    convert = commands.add_parser(
        "convert-release",
        help="turn a released ParGo checkpoint into a folder of this package",
        description="Turn a released ParGo checkpoint and its language model into a folder that from_pretrained loads. Every "
        "tensor of the checkpoint is used, or named as left over (also in conversion.json of the folder).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    convert.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help=".pth or .safetensors; no code is run")
    convert.add_argument("--llm", type=Path, required=True, metavar="PATH", help="folder of the language model")
    convert.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    convert.add_argument("--num-partial", type=int, default=288, help="partial tokens of the projector")
    convert.add_argument("--num-heads", type=int, default=16, help="attention heads of the projector")
    convert.add_argument("--vision-heads", type=int, default=16, help="attention heads of the encoder")
    convert.add_argument("--image-size", type=int, default=336, help="side of the encoder's pictures in pixels")
    convert.add_argument("--lora-alpha", type=float, default=512, help="the update is alpha / rank * B @ A")
    convert.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="auto: the language model's"
    )
    convert.set_defaults(module="pargo_mllm.commands.convert_release")
