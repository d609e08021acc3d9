"""``pargo validate``."""

from __future__ import annotations

from pargo_cli.engine_options import add_engine_options
from pargo_cli.values import no_empty, path, positive


def add_parser(commands) -> None:
    """Add the command."""
    validate = commands.add_parser(
        "validate",
        allow_abbrev=False,
        help="check training data before anything is trained",
        description="Find out what is wrong with training data. Exit status: 0 where nothing matters, 3 for warnings alone, 1 "
        "for errors, 2 where it cannot be validated.",
    )
    validate.add_argument(
        "data",
        type=no_empty,
        metavar="DATA",
        help="what pargo train --data takes: a LLaVA list, shards, a COCO-style folder, or several",
    )
    validate.add_argument("--image-root", type=path, metavar="DIR", help="where a LLaVA list has its pictures, as in training")
    validate.add_argument("--decode", action="store_true", help="decode every picture, not only its head")
    validate.add_argument(
        "--near",
        action="store_true",
        help="look for pictures and answers that nearly repeat others, and for files of the same content (pargo[data])",
    )
    validate.add_argument(
        "--model", type=path, metavar="DIR", help="count tokens as this model's tokenizer, template and pictures make them"
    )
    validate.add_argument(
        "--max-length", type=positive, metavar="N", help="tokens of a sample at most (default: the model's positions)"
    )
    validate.add_argument(
        "--template", choices=("chat", "plain"), default="chat", help="the text that is trained on (default: chat)"
    )
    validate.add_argument(
        "--frame",
        choices=("picture", "pixels", "padded", "thousand"),
        help="what the numbers of boxes count where records do not say it",
    )
    validate.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="FILE",
        help="questions of an evaluation that must not be trained on, or BENCHMARK=PATH; may be given several times",
    )
    validate.add_argument("--strict", action="store_true", help="count warnings as errors")
    validate.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    validate.add_argument("--html", type=path, metavar="FILE", help="write a page with examples and their pictures")
    validate.add_argument("--findings", type=path, metavar="FILE", help="write every finding, one JSON object a line")
    add_engine_options(validate)
    validate.set_defaults(module="pargo_mllm.commands.validate")
