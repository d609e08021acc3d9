"""``pargo convert-release``."""

from __future__ import annotations

import argparse

import torch

from pargo_mllm.checkpoints.convert_release import convert_release
from pargo_mllm.errors import UserError


def run(options: argparse.Namespace) -> None:
    """Convert, and print what became of every tensor.

    Raises:
        UserError: for parts or numbers that do not fit.
    """
    try:
        report = convert_release(
            checkpoint=options.checkpoint,
            llm=options.llm,
            out=options.out,
            num_partial_tokens=options.num_partial,
            num_attention_heads=options.num_heads,
            vision_heads=options.vision_heads,
            image_size=options.image_size,
            lora_alpha=options.lora_alpha,
            dtype=options.dtype if options.dtype == "auto" else getattr(torch, options.dtype),
        )
    except ValueError as error:
        # the numbers of the command line are checked where they are used
        raise UserError(str(error)) from error
    print(report)
