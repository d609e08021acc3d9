"""``pargo merge``."""

from __future__ import annotations

import argparse

from pargo_mllm.checkpoints.merging import merge_adapter
from pargo_mllm.configuration import ParGoConfig


def run(options: argparse.Namespace) -> None:
    """Merge, and say how much the logits differ."""
    difference = merge_adapter(options.adapter, options.out, options.base)
    dtype = str(ParGoConfig.from_pretrained(options.out).dtype_of("text_config")).removeprefix("torch.")
    rounded = "" if dtype == "float32" else f" in fp32; then the language model was rounded to {dtype}, the dtype of its base"
    print(f"{options.out}: LoRA folded in; the logits differ by {difference:.2g} at most{rounded}")
