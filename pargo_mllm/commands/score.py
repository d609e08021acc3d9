"""``pargo score``."""

from __future__ import annotations

import argparse
import json
import sys
import warnings

from pargo_mllm.data.frames import FRAMES
from pargo_mllm.evaluation.benchmark import Benchmark, ScoringError, printable
from pargo_mllm.evaluation.benchmarks import find
from pargo_mllm.evaluation.joining import read_joined
from pargo_mllm.evaluation.judging.grading import graded
from pargo_mllm.evaluation.runs.outcome import check_new, predictions_of, shown, write_outcome
from pargo_mllm.evaluation.scoring import chosen_rule, is_ranked, score


def run(options: argparse.Namespace) -> None:
    """Score, and print the result."""
    # one line each, and never among the result
    warnings.showwarning = lambda message, *_: print(f"pargo score: {printable(str(message))}", file=sys.stderr)
    warnings.simplefilter("always", UserWarning)
    benchmark = find(options.benchmark)
    name = _rule_name(benchmark, options)
    if options.out is not None:
        check_new(options.out)
    predictions = predictions_of(options.predictions, benchmark.name)
    joined = read_joined(benchmark, predictions, options.answers, options.only_joined)
    rule = chosen_rule(benchmark, name, is_ranked(joined.answered))
    answered, judged = graded(benchmark, rule, joined.answered, options, predictions)
    counts = {"unanswered": joined.unanswered, "unused": joined.unused} if options.only_joined else {}
    scored = score(benchmark, rule, answered, joined_by=joined.by, **counts, **judged)
    if options.out is not None:
        files = {"predictions": predictions, "data": options.answers, "grades": options.grades}
        told = {key: None if file is None else str(file.resolve()) for key, file in files.items()}
        told_of = {"command": options.words, "model": None, "weights": None, **told}
        write_outcome(options.out, told_of, scored, benchmark.under(rule).asked)
    print(json.dumps(scored.result) if options.json else shown(benchmark, scored.result))


def _rule_name(benchmark: Benchmark, options: argparse.Namespace) -> str | None:
    """The rule that ``--rule`` or ``--frame`` names; boxes without a frame are refused."""
    framed = all(rule.name in FRAMES for rule in benchmark.rules)
    if options.frame is None or not framed:
        if options.frame is not None:
            raise ScoringError(f"--frame is of boxes, and {benchmark.name} has none.")
        if options.rule is not None:
            return benchmark.rule(options.rule).name
        if framed:
            frames = "; ".join(f"{rule.name} ({FRAMES[rule.name]})" for rule in benchmark.rules)
            raise ScoringError(f"--frame is missing: what the boxes' numbers count, nothing can guess. There are {frames}.")
        return None
    if options.frame not in FRAMES:
        raise ScoringError(f"--frame {options.frame}: there are {', '.join(FRAMES)}.")
    if options.rule not in (None, options.frame):
        raise ScoringError(f"--frame {options.frame} and --rule {options.rule} are two rules; give one of them.")
    return benchmark.rule(options.frame).name
