"""``pargo merge``."""

from __future__ import annotations

import argparse

from pargo_mllm.checkpoints.merging import merge_adapter


def run(options: argparse.Namespace) -> None:
    """Merge, and say how much the logits differ."""
    difference = merge_adapter(options.adapter, options.out, options.base)
    print(f"{options.out}: LoRA folded in; the logits differ by {difference:.2g} at most")
