"""``pargo eval``."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import transformers

from pargo_mllm.answering.reader import Reader
from pargo_mllm.commands.processes import run_in_processes
from pargo_mllm.evaluation.benchmark import Benchmark, Rule, ScoringError
from pargo_mllm.evaluation.benchmarks import find
from pargo_mllm.evaluation.failures import save_failures
from pargo_mllm.evaluation.judging import graded
from pargo_mllm.evaluation.outcome import check_out, write_outcome, write_run
from pargo_mllm.evaluation.run import Run, Settings, ask, open_items, say_near_ties
from pargo_mllm.evaluation.scoring import score
from pargo_mllm.evaluation.shown import shown_result
from pargo_mllm.loading import chosen_device, open_model
from pargo_mllm.model_files import folder_digest
from pargo_mllm.training.trainer.processes import Processes, from_all


def run(options: argparse.Namespace) -> None:
    """Evaluate as the options say."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run_in_processes(lambda: _evaluate(options))


def _evaluate(options: argparse.Namespace) -> None:
    benchmark = find(options.benchmark)
    rule = benchmark.rules[0] if options.rule is None else benchmark.rule(options.rule)
    items = open_items(benchmark, options.data, options.limit)
    processes, device = Processes.of_environment(), chosen_device(options.device)
    folder = options.out or Path("eval") / benchmark.name / options.model.resolve().name
    settings = Settings(
        options.limit,
        options.batch_size,
        options.max_new_tokens or benchmark.max_new_tokens,
        False if options.no_shared_prefix else None,
    )
    with processes.joined(device):
        weights = folder_digest(options.model) if options.model.is_dir() else ""
        described = _described(options, benchmark, rule, weights)
        check_out(folder, described)
        dtype = options.dtype if options.dtype == "auto" else options.dtype
        model, processor = open_model(options.model, dtype=dtype)
        reader = Reader(model.eval().to(device), processor, settings.share)
        if reader.shares_not_because and processes.is_first:
            print(f"beginnings are not shared: {reader.shares_not_because}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        asked = ask(
            benchmark, rule, items, folder, reader, settings, weights, processes.rank, processes.size, lambda: from_all(None)
        )
    if processes.is_first:
        _conclude(options, benchmark, rule, asked, folder, described, reader)
