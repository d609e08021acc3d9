"""Benchmarks, one file each; :func:`find` opens one by its name."""

from __future__ import annotations

from importlib import import_module

from pargo_cli.benchmarks import BENCHMARKS
from pargo_mllm.evaluation.benchmark import Benchmark, EvaluationError

__all__ = ["BENCHMARKS", "find"]


def find(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        EvaluationError: if there is none.
    """
    if name not in BENCHMARKS:
        raise EvaluationError(f"--benchmark {name}: there are {', '.join(BENCHMARKS)}.")
    for benchmark in import_module(f"{__name__}.{BENCHMARKS[name]}").ALL:
        if benchmark.name == name:
            return benchmark
    raise AssertionError(f"{BENCHMARKS[name]} has no {name}")
