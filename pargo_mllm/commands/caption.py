"""``pargo caption``."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from typing import Any

from pargo_mllm.captioning.captions.asked import Asked, CaptionError, read_parameters, read_prompt
from pargo_mllm.captioning.captions.finding import find_pictures
from pargo_mllm.captioning.captions.job import Job, how_on, remaining, told
from pargo_mllm.captioning.captions.run import describe, ledger_of
from pargo_mllm.data.corpus import shown
from pargo_mllm.endpoint import Endpoint
from pargo_mllm.endpoint.prices import read_price
from pargo_mllm.endpoint.spending import Limits, Spending
from pargo_mllm.files import default_cache
from pargo_mllm.jobs import Engine, engine_of


def run(options: argparse.Namespace) -> None:
    """Describe, and say what became of every picture."""
    warnings.showwarning = lambda message, *_: print(f"pargo caption: {shown(str(message))}", file=sys.stderr)
    _check(options)
    engine = engine_of(options.engine, options.processes)
    (_by_model if options.local else _by_endpoint)(options, engine)


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if (options.local is None) == (options.endpoint is None):
        raise CaptionError("give either --endpoint URL with --model NAME, or --local DIR.")
    if options.local is None and options.model is None:
        raise CaptionError("--endpoint needs --model NAME, as the endpoint names it.")
    if options.max_cost is not None and options.prices is None:
        raise CaptionError("--max-cost needs --prices FILE: what the model's tokens cost.")
    for name in ("limit_requests", "limit_input_tokens", "limit_output_tokens", "prices", "batch", "model", "detail"):
        if options.local is not None and getattr(options, name) is not None:
            raise CaptionError(f"--{name.replace('_', '-')} is of an endpoint, and --local is none.")
    if options.local is not None and (options.estimate or options.cache is not None or options.parameters != "{}"):
        raise CaptionError("--estimate, --cache and --parameters are of an endpoint, and --local is none.")
    if (options.batch == "read") != bool(options.results):
        raise CaptionError("--batch read and --results FILE… belong together.")
    if options.limit_output_tokens is not None and options.max_tokens > options.limit_output_tokens:
        raise CaptionError(
            f"a caption may have {options.max_tokens:,} tokens (--max-tokens): more than --limit-output-tokens, "
            f"{options.limit_output_tokens:,}."
        )


def _job(options: argparse.Namespace, asked: Asked) -> Job:
    return Job(options.out, find_pictures(options.images, options.image_root), asked, options.images, options.copy)


def _by_endpoint(options: argparse.Namespace, engine: Engine) -> None:
    price = None if options.prices is None else read_price(options.prices, options.model)
    cache = options.cache or default_cache() / "captions.sqlite"
    endpoint = Endpoint(options.endpoint, options.model, cache, concurrency=options.concurrency, timeout=options.timeout)
    asked = Asked(
        read_prompt(options.prompt_file),
        options.model,
        options.max_tokens,
        options.max_side,
        options.detail,
        read_parameters(options.parameters),
    )
    limits = Limits(options.limit_requests, options.limit_input_tokens, options.limit_output_tokens, cost=options.max_cost)
    with _job(options, asked).begun(engine) as job:
        spending = Spending(limits, ledger_of(job), price)
        try:
            written = describe(
                job,
                endpoint,
                spending,
                engine,
                retry_failed=options.retry_failed,
                batch=options.batch,
                results=options.results,
                only_estimate=options.estimate,
                say=lambda line: print(line, file=sys.stderr),
            )
        finally:
            spending.ledger.close()
    if written is not None:
        _say(options, written)


def _by_model(options: argparse.Namespace, engine: Engine) -> None:
    # torch is needed by none of the others
    from pargo_mllm.captioning.captions import by_model
    from pargo_mllm.loading import check_model_folder
    from pargo_mllm.model_files import folder_digest

    check_model_folder(options.local)
    model = by_model.Model(options.local, options.batch_size, options.device, options.dtype)
    prompt = read_prompt(options.prompt_file)
    asked = Asked(prompt, f"{options.local.resolve().name}@{folder_digest(options.local)[:12]}", options.max_tokens)
    with _job(options, asked).begun(engine) as job:
        by_model.caption(job, model, engine, options.retry_failed)
        written = job.write(engine, by_model.said_in(job), {})
        if not remaining(written):
            job.end()
    _say(options, written)


def _say(options: argparse.Namespace, written: dict[str, Any]) -> None:
    """Print what became of the pictures."""
    if options.json:
        print(json.dumps(written, ensure_ascii=False))
        return
    print(told(written, options.out))
    if asked := written.get("asked"):
        cost = "" if asked["paid_usd"] is None else f"; {asked['paid_usd']:.4f} USD, and perhaps {asked['perhaps_usd']:.4f}"
        print(
            f"{asked['requests']:,} requests, {asked['retries']:,} of them to be asked again; "
            f"{asked['tokens']['input']:,} tokens of prompts, {asked['tokens']['output']:,} of answers{cost}"
        )
        if asked["without_usage"]:
            print(
                f"{asked['without_usage']:,} answers said nothing of their tokens that can be used: perhaps the most was paid"
            )
    if advice := how_on(written):
        print(advice, file=sys.stderr)
