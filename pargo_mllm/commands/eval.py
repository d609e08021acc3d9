"""``pargo eval``."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import transformers

from pargo_mllm.answering.reader import Reader
from pargo_mllm.commands.processes import run_in_processes
from pargo_mllm.evaluation.asking.run import Run, Settings, ask, check_same_run, open_items, say_near_ties
from pargo_mllm.evaluation.benchmark import Benchmark, EvaluationError, Rule, printable
from pargo_mllm.evaluation.benchmarks import find
from pargo_mllm.evaluation.judging.grading import endpoint_of, graded
from pargo_mllm.evaluation.runs.failures import save_failures
from pargo_mllm.evaluation.runs.outcome import RUN, shown, write_outcome
from pargo_mllm.evaluation.scoring import Scored, score, versions
from pargo_mllm.files import write_whole
from pargo_mllm.loading import check_model_folder, chosen_device, open_model
from pargo_mllm.model_files import folder_digest
from pargo_mllm.training.trainer.processes import Processes, from_all


def run(options: argparse.Namespace) -> None:
    """Evaluate as the options say."""
    warnings.showwarning = lambda message, *_: print(f"pargo eval: {printable(str(message))}", file=sys.stderr)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run_in_processes(lambda: _written(options))


def _written(options: argparse.Namespace) -> None:
    try:
        _evaluate(options)
    except OSError as error:
        # what is read says itself what is wrong with it
        raise EvaluationError(
            f"{error.filename or options.out}: {error.strerror or error}; what was answered is kept."
        ) from error


def _evaluate(options: argparse.Namespace) -> None:
    benchmark = find(options.benchmark)
    rule = benchmark.rules[0] if options.rule is None else benchmark.rule(options.rule)
    benchmark = benchmark.under(rule)
    if options.grades is not None and not options.grades.is_file():
        raise EvaluationError(f"--grades {options.grades} is not there: give the file of grades, or leave it out.")
    if options.judge is not None:
        # an address that is none is told before the questions are asked
        endpoint_of(options)
    processes, device = Processes.of_environment(), chosen_device(options.device)
    check_model_folder(options.model)
    items = open_items(benchmark, options.data, options.limit)
    folder = options.out or Path("eval") / benchmark.name / options.model.resolve().name
    about = _about(options, benchmark, rule, folder_digest(options.model))
    check_same_run(folder, about)
    tokens = options.max_new_tokens or benchmark.max_new_tokens
    settings = Settings(options.limit, options.batch_size, tokens, False if options.no_shared_prefix else None)
    with ExitStack() as together:
        together.enter_context(processes.joined(device))
        model, processor = open_model(options.model, dtype=options.dtype)
        reader = Reader(model.eval().to(device), processor, settings.share)
        if processes.is_first and reader.shares_not_because:
            print(f"beginnings are not shared: {reader.shares_not_because}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        answered = ask(
            benchmark,
            rule,
            items,
            folder,
            reader,
            settings,
            about["weights"],
            processes.rank,
            processes.size,
            _all_are_done,
        )
    if processes.is_first:
        _conclude(options, benchmark, rule, folder, about, answered, reader)


def _all_are_done() -> None:
    from_all(None)


def _about(options: argparse.Namespace, benchmark: Benchmark, rule: Rule, weights: str) -> dict[str, Any]:
    """What the run is, as far as it is known before anything is asked."""
    return {
        "command": options.words,
        "benchmark": benchmark.name,
        "rule": rule.name,
        "model": str(options.model.resolve()),
        "weights": weights,
        "data": None if options.data is None else str(options.data.resolve() if options.data.exists() else options.data),
        "prompt": benchmark.prompt,
        "dtype": options.dtype,
        "max_new_tokens": options.max_new_tokens or benchmark.max_new_tokens,
    }


def _conclude(
    options: argparse.Namespace,
    benchmark: Benchmark,
    rule: Rule,
    folder: Path,
    about: dict[str, Any],
    asked: Run,
    reader: Reader,
) -> None:
    """Write the predictions, then what they are worth where that is known."""
    written = benchmark.submission(asked.predictions, folder)
    about = {
        **about,
        **asked.about,
        "predictions": str(written.relative_to(folder)),
        "versions": {**versions(), "torch": torch.__version__, "transformers": transformers.__version__},
    }
    write_whole(folder / RUN, json.dumps(about, indent=2))
    say_near_ties(asked.about)
    unknown = sum(item.answer is None for item in asked.items)
    if unknown:
        print(f"{written}: the right answers of {unknown:,} questions are not published; no score is computed", file=sys.stderr)
        return
    if rule.needs_grades and options.grades is None and options.judge is None:
        print(f"{written}: a judge grades these answers; go on with --judge MODEL, or --grades FILE", file=sys.stderr)
        return
    answered, told = graded(benchmark, rule, asked.answered(), options)
    how = {
        "versions": about["versions"],
        "prompt": benchmark.prompt,
        "batch_size": options.batch_size,
        "dtype": asked.about["settings"]["dtype"],
    }
    limited = {} if options.limit is None else {"limit": options.limit}
    scored = score(benchmark, rule, answered, **told, **how, **limited)
    write_outcome(folder, about, scored, benchmark.asked)
    _say(options, benchmark, folder, scored)
    for reason in save_failures(folder, scored.marks, benchmark.conversation, reader.model, reader.processor, options.failures):
        print(f"failures without a picture: {reason}", file=sys.stderr)


def _say(options: argparse.Namespace, benchmark: Benchmark, folder: Path, scored: Scored) -> None:
    if options.json:
        print(json.dumps(scored.result, ensure_ascii=False))
    else:
        print(shown(benchmark, scored.result))
        print(f"the run lies in {folder}; pargo report {folder} shows it", file=sys.stderr)
