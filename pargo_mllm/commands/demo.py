"""``pargo demo``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pargo_mllm.demo.run import COMPARABLE, DemoOptions, run_demo
from pargo_mllm.miniature.sizes import SCALES


def add_parser(commands) -> None:
    """Add the command."""
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
    demo.add_argument(
        "--compare", nargs="+", choices=COMPARABLE, default=(), help="projectors to train the same way beside ParGo"
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
        "--scale", choices=tuple(SCALES), default="demo", help="tiny: learns nothing, checks in seconds that all runs"
    )
    demo.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    wanted = DemoOptions(
        data=options.data,
        compare=tuple(dict.fromkeys(options.compare)),
        out=options.out,
        cache=options.cache,
        seed=options.seed,
        device=options.device,
        scale=options.scale,
    )
    try:
        run_demo(wanted)
    except KeyboardInterrupt:
        print("finished phases are kept; the same command goes on with the next one", file=sys.stderr)
        raise


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 0 to {2**31 - 1}")
    return int(text)
