"""``pargo merge``."""

from __future__ import annotations

import argparse
from pathlib import Path

from pargo_mllm.checkpoints.merging import merge_adapter
from pargo_mllm.configuration import ParGoConfig


def add_parser(commands) -> None:
    """Add the command."""
    merge = commands.add_parser(
        "merge",
        help="fold an adapter (LoRA and projector) into its model and check the logits",
        description="Fold LoRA and the projector trained beside it into the model; fails unless the logits stay the same.",
    )
    merge.add_argument(
        "--adapter", type=Path, required=True, metavar="DIR", help="what save_pretrained of the adapted model wrote"
    )
    merge.add_argument("--out", type=Path, required=True, metavar="DIR", help="the whole model; must not exist")
    merge.add_argument("--base", type=Path, metavar="DIR", help="the model it was trained on (default: as the adapter says)")
    merge.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    difference = merge_adapter(options.adapter, options.out, options.base)
    dtype = str(ParGoConfig.from_pretrained(options.out).dtype_of("text_config")).removeprefix("torch.")
    rounded = "" if dtype == "float32" else f" in fp32; then the language model was rounded to {dtype}, the dtype of its base"
    print(f"{options.out}: LoRA folded in; the logits differ by {difference:.2g} at most{rounded}")
