"""``pargo merge``."""

from __future__ import annotations

from pathlib import Path


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
    merge.set_defaults(module="pargo_mllm.commands.merge")
