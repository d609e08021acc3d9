"""``pargo assemble``."""

from __future__ import annotations

from pathlib import Path

from pargo_cli.keys import PROJECTOR_TYPES
from pargo_cli.values import at_least_zero

FAMILIES = ("llama3", "vicuna", "internlm2", "qwen", "chatml")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def add_parser(commands) -> None:
    """Add the command."""
    assemble = commands.add_parser(
        "assemble",
        help="make a model folder of a pretrained encoder and language model, for --model",
        description="Put a fresh projector between a pretrained encoder and a pretrained language model. What comes out is the "
        "folder that --model takes. Parts are folders, or names of a hub where there is a network.",
    )
    assemble.add_argument(
        "--vision-model", required=True, metavar="DIR|NAME", help="a CLIP, SigLIP or EVA-02-CLIP model with its image processor"
    )
    assemble.add_argument(
        "--language-model", required=True, metavar="DIR|NAME", help="a causal language model of transformers with its tokenizer"
    )
    assemble.add_argument("--gguf", metavar="FILE", help="of that folder or name: a GGUF file with weights and tokenizer")
    assemble.add_argument(
        "--projector",
        default="pargo",
        metavar="TYPE",
        help=f"{', '.join(PROJECTOR_TYPES)} (default: pargo); or arguments: '{{projector_type: mlp, …}}'",
    )
    assemble.add_argument(
        "--template",
        choices=FAMILIES,
        help="the chat format to train and ask in (default: the tokenizer's own, or one that fits its vocabulary)",
    )
    assemble.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="of encoder and language model (default: auto, as they are saved)"
    )
    assemble.add_argument("--seed", type=at_least_zero, default=0, metavar="N", help="of the projector's weights (default: 0)")
    assemble.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model folder; must not exist")
    assemble.set_defaults(module="pargo_mllm.commands.assemble")
