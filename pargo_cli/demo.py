"""``pargo demo``."""

from __future__ import annotations

import argparse
from pathlib import Path

from pargo_cli.keys import PROJECTOR_TYPES


def add_parser(commands) -> None:
    """Add the command. What names a projector or a scale is looked up when it runs: both are tables that may grow."""
    demo = commands.add_parser(
        "demo",
        help="train a miniature through both stages and judge it on held-out pictures",
        description="Train a small encoder, ParGo and a small Llama through both stages and judge them on held-out pictures.",
    )
    demo.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="COCO-style photographs: images/, captions.json, instances.json (default: generated scenes)",
    )
    others = ", ".join(name for name in PROJECTOR_TYPES if name != "pargo")
    demo.add_argument(
        "--compare", nargs="+", default=(), metavar="TYPE", help=f"projectors to train the same way beside ParGo: {others}"
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("pargo-demo"),
        metavar="FOLDER",
        help="report, results and models (default: pargo-demo)",
    )
    demo.add_argument("--cache", type=Path, metavar="FOLDER", help="finished phases (default: ~/.cache/pargo)")
    demo.add_argument("--seed", type=_seed, default=0, help="of pictures, projector and order of training (default: 0)")
    demo.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto, the GPU where there is one"
    )
    demo.add_argument(
        "--scale", default="demo", metavar="demo|tiny", help="tiny: learns nothing, checks in seconds that all runs"
    )
    demo.set_defaults(module="pargo_mllm.commands.demo")


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 0 to {2**31 - 1}")
    return int(text)
