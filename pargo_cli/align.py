"""``pargo align``."""

from __future__ import annotations

from pargo_cli.values import at_least_zero, no_empty, path, positive, share

PARTS = ("entropy", "alignment", "segmentation", "words", "attribution")


def add_parser(commands) -> None:
    """Add the command."""
    align = commands.add_parser(
        "align",
        allow_abbrev=False,
        help="what projectors keep of pictures, which words their tokens speak, and where tokens come from",
        description="Look at the same pictures with each model: entropy before and after the projector, how well tokens and "
        "words of what is there fit, the words a token is made of, where it comes from with a check that removes it, and "
        "segmentation by words. Without boxes or masks of named things, what needs them is left out, and said.",
    )
    align.add_argument("models", type=path, nargs="+", metavar="MODEL", help="folders of a model and its processor")
    align.add_argument(
        "--data",
        type=no_empty,
        required=True,
        metavar="DATA",
        help="a COCO-style folder, a LLaVA list, a prepared folder, shards, or scenes",
    )
    data = align.add_argument_group("pictures")
    data.add_argument(
        "--patch-labels",
        type=path,
        metavar="FILE",
        help="what is where, as pargo data patches wrote it (default: as the data say)",
    )
    data.add_argument("--split", choices=("train", "test"), default="test", help="side of the data (default: held out)")
    data.add_argument(
        "--held-out", type=share, default=0.0, metavar="SHARE", help="of a list or shards, as in training (default: nothing)"
    )
    data.add_argument("--image-root", type=path, metavar="DIR", help="where a LLaVA list has its pictures")
    data.add_argument("--pictures", type=positive, default=64, metavar="N", help="drawn at random (default: %(default)s)")
    data.add_argument(
        "--close",
        type=at_least_zero,
        default=8,
        metavar="N",
        help="of them, those whose words and attributions are looked at, and shown (default: %(default)s)",
    )
    data.add_argument("--seed", type=at_least_zero, default=0, metavar="N", help="of the draw (default: %(default)s)")
    work = align.add_argument_group("work")
    work.add_argument("--only", action="append", choices=PARTS, metavar="PART", help=f"{', '.join(PARTS)}; may be given again")
    work.add_argument("--num-words", type=positive, metavar="N", help="that a token is made of (default: 5)")
    work.add_argument(
        "--non-negative", action="store_true", help="words are added alone, none is taken away (default: they may be)"
    )
    work.add_argument("--batch-size", type=positive, default=8, metavar="N", help="pictures at once (default: %(default)s)")
    work.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the whole model (default: auto, as it was saved)",
    )
    work.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: the GPU where there is one")
    told = align.add_argument_group("what is written")
    told.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    told.add_argument("--html", type=path, metavar="FILE", help="a page on which each patch shows its words")
    told.add_argument(
        "--out", type=path, metavar="DIR", help="a folder for align.json and the plots; absent, empty, or one of these"
    )
    align.set_defaults(module="pargo_mllm.commands.align")
