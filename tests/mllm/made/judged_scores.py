"""Scores as ``pargo score`` reaches them, by its options."""

import argparse

from pargo_cli.judge_options import add_judge_options
from pargo_mllm.evaluation.benchmarks import find
from pargo_mllm.evaluation.joining import read_joined
from pargo_mllm.evaluation.judging.grading import graded
from pargo_mllm.evaluation.scoring import score


def judge_options(*words):
    """The options, parsed."""
    parser = argparse.ArgumentParser()
    add_judge_options(parser)
    return parser.parse_args([str(word) for word in words])


def judged_score(name, answers, predictions, *words):
    """The result of a file of predictions (or grades) by the benchmark's first rule; ``answers`` may be None."""
    benchmark, options = find(name), judge_options(*words)
    rule = benchmark.rules[0]
    answered, about = graded(benchmark, rule, read_joined(benchmark, predictions, answers).answered, options, predictions)
    return score(benchmark, rule, answered, **about).result
