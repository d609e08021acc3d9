"""``pargo score``."""

from __future__ import annotations

from pathlib import Path

from pargo_cli.benchmarks import BENCHMARKS
from pargo_cli.judge_options import add_judge_options


def add_parser(commands) -> None:
    """Add the command."""
    score = commands.add_parser(
        "score",
        allow_abbrev=False,
        help="score a file of predictions, without a model",
        description="Score predictions that a file holds, by a benchmark's own rule. They join the answers by id, else by "
        "picture and question; what does not join is refused.",
    )
    score.add_argument(
        "predictions",
        type=Path,
        metavar="PREDICTIONS",
        help="a file in one of the formats that the benchmark's peers write, a folder of them (MME), or a run of pargo eval",
    )
    score.add_argument(
        "--benchmark", required=True, choices=tuple(BENCHMARKS), metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}"
    )
    score.add_argument(
        "--answers",
        type=Path,
        metavar="FILE",
        help="the benchmark's questions with their answers (default: the predictions' own)",
    )
    score.add_argument(
        "--rule", metavar="NAME", help="how answers are scored (default: the benchmark's first rule that fits them)"
    )
    score.add_argument(
        "--frame",
        metavar="NAME",
        help="what the numbers of predicted boxes count, which nothing can guess: picture, pixels, padded or thousand",
    )
    score.add_argument(
        "--only-joined",
        action="store_true",
        help="score what joins, where questions have no prediction or predictions no question, and say both counts",
    )
    score.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    score.add_argument("--out", type=Path, metavar="RUN", help="write a folder for pargo report; must be absent or empty")
    add_judge_options(score)
    score.set_defaults(module="pargo_mllm.commands.score")
