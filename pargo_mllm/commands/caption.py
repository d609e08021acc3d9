"""``pargo caption``."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from pargo_mllm.captioning.captions import by_endpoint
from pargo_mllm.captioning.captions.asked import Asked, CaptionError, read_parameters, read_prompt
from pargo_mllm.captioning.captions.by_batch import WAITING, Batches
from pargo_mllm.captioning.captions.estimate import estimate
from pargo_mllm.captioning.captions.finding import find_pictures
from pargo_mllm.captioning.captions.job import ASKED, Job, remaining, told
from pargo_mllm.data.corpus import shown
from pargo_mllm.endpoint import Endpoint
from pargo_mllm.endpoint.kept import KeptAnswers
from pargo_mllm.endpoint.prices import Price, read_price
from pargo_mllm.endpoint.spending import Limits, Spending
from pargo_mllm.files import default_cache, write_whole
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
        spending = Spending(limits, job.work / by_endpoint.SENT, price)
        try:
            _asked(options, job, endpoint, spending, price, engine)
        finally:
            spending.ledger.close()


def _asked(
    options: argparse.Namespace, job: Job, endpoint: Endpoint, spending: Spending, price: Price | None, engine: Engine
) -> None:
    why, batch = "", options.batch
    kept = KeptAnswers(endpoint.cache)
    try:
        with Batches(job) as batches:
            if batch == "forget":
                _say(f"{batches.forget():,} requests in batches are let go of")
            if batch == "read":
                for kind, count in sorted(batches.read(options.results, kept, spending).items()):
                    _say(f"{count:,} {kind}")
            expected = estimate(job, kept, options.retry_failed, batches.holds)
            share = price.batch if price is not None and batch else 1.0
            _say(expected.told(price, share))
            if options.estimate:
                return
            if batch == "write":
                most = spending.cost() + share * price.of(expected.most) if price is not None else 0.0
                if options.max_cost is not None and most > options.max_cost:
                    raise CaptionError(
                        f"a batch of all of them may cost {most:.2f} USD in the end, more than --max-cost {options.max_cost:g}."
                    )
                for file in batches.write(endpoint, kept, options.retry_failed):
                    _say(f"{file}: upload it to a batch of {endpoint.model}; then --batch read --results FILE…")
            elif batch is None:
                why = by_endpoint.ask(
                    job,
                    endpoint,
                    spending,
                    retry_failed=options.retry_failed,
                    leave_out=batches.holds,
                    total=expected.pictures - expected.waiting,
                )
    finally:
        kept.close()
        # of every end, also of one by an error
        write_whole(job.out / ASKED, json.dumps(_how(spending), indent=2))
    about = {"endpoint": endpoint.name, "price": None if price is None else price.__dict__}
    _finish(options, job, engine, [*by_endpoint.said_in(job, endpoint.cache), job.work / WAITING], about, spending)
    if why:
        raise CaptionError(f"{why} What was answered is kept, and written; with a higher --max-cost the same command goes on.")


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
        _finish(options, job, engine, by_model.said_in(job), {}, None)


def _finish(
    options: argparse.Namespace,
    job: Job,
    engine: Engine,
    said: list[Path],
    about: dict[str, Any],
    spending: Spending | None,
) -> None:
    written = job.write(engine, said, about)
    rest = remaining(written)
    if not rest:
        job.end()
    asked = {} if spending is None else _how(spending)
    if options.json:
        print(json.dumps({**written, "asked": asked}, ensure_ascii=False))
        return
    print(told(written, job.out))
    if asked:
        print(
            f"{asked['requests']:,} requests, {asked['retries']:,} of them to be asked again; "
            f"{asked['tokens']['input']:,} tokens of prompts, {asked['tokens']['output']:,} of answers{_money(asked)}"
        )
    if rest:
        print(f"{rest:,} pictures may still get a caption: run the same command again", file=sys.stderr)


def _money(asked: dict[str, Any]) -> str:
    return "" if asked["cost_usd"] is None else f"; {asked['cost_usd']:.4f} USD, of which {asked['perhaps_usd']:.4f} perhaps"


def _how(spending: Spending) -> dict[str, Any]:
    """How the asking went, over all runs."""
    faults = spending.ledger.faults()
    requests, price = faults.pop("requests"), spending.price
    tokens, perhaps = spending.tokens(), spending.perhaps()
    return {
        "requests": requests,
        "retries": sum(faults.values()),
        "faults": dict(sorted(faults.items())),
        "tokens": tokens.__dict__,
        # of requests that said nothing: cut off, too slow, or killed
        "perhaps_tokens": perhaps.__dict__,
        "cost_usd": None if price is None else round(spending.cost(), 6),
        "perhaps_usd": None if price is None else round(price.of(perhaps), 6),
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr)
