"""``pargo eval``."""

from __future__ import annotations

from pathlib import Path

from pargo_cli.benchmarks import BENCHMARKS
from pargo_cli.judge_options import add_judge_options
from pargo_cli.values import at_least_zero, positive


def add_parser(commands) -> None:
    """Add the command."""
    evaluate = commands.add_parser(
        "eval",
        allow_abbrev=False,
        help="ask a model a benchmark's questions, and score what it says",
        description="Ask a model a benchmark's questions and score its answers by the benchmark's rule. What is answered is "
        "kept in --out at once: the same command goes on where a run was interrupted. Processes of torchrun share the work.",
    )
    evaluate.add_argument("model", type=Path, metavar="MODEL", help="folder of model and processor")
    evaluate.add_argument("--benchmark", required=True, metavar="NAME", help=", ".join(BENCHMARKS))
    evaluate.add_argument(
        "--data",
        type=Path,
        metavar="DIR|FILE",
        help="the benchmark's official files, VLMEvalKit's TSV, or the hub's parquet, with the pictures (scenes need none)",
    )
    evaluate.add_argument("--rule", metavar="NAME", help="how to score (default: the benchmark's first)")
    evaluate.add_argument("--limit", type=positive, metavar="N", help="ask the first N questions alone")
    evaluate.add_argument(
        "--batch-size",
        type=positive,
        default=8,
        metavar="N",
        help="prompts at once; halved when memory runs out (default: 8)",
    )
    evaluate.add_argument("--max-new-tokens", type=positive, metavar="N", help="of an answer (default: the benchmark's)")
    evaluate.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the whole model (default: auto, as it was saved)",
    )
    evaluate.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: the GPU where there is one")
    evaluate.add_argument(
        "--no-shared-prefix",
        action="store_true",
        help="read every prompt whole, also what it has in common with others about the same picture",
    )
    evaluate.add_argument("--out", type=Path, metavar="RUN", help="the run's folder (default: eval/NAME/MODEL)")
    evaluate.add_argument(
        "--failures", type=at_least_zero, default=24, metavar="N", help="wrong answers to keep pictures of (default: 24)"
    )
    evaluate.add_argument("--json", action="store_true", help="print the result as one JSON object, and nothing else")
    add_judge_options(evaluate)
    evaluate.set_defaults(module="pargo_mllm.commands.eval")
