"""Captions from an endpoint from beginning to end, or as far as a batch goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pargo_mllm.captioning.captions import by_endpoint
from pargo_mllm.captioning.captions.asked import CaptionError
from pargo_mllm.captioning.captions.by_batch import WAITING, Batches
from pargo_mllm.captioning.captions.estimate import Estimate, estimate
from pargo_mllm.captioning.captions.job import ASKED, Job, remaining
from pargo_mllm.endpoint import Endpoint
from pargo_mllm.endpoint.kept import KeptAnswers
from pargo_mllm.endpoint.spending import Spending
from pargo_mllm.files import write_whole
from pargo_mllm.jobs import Engine

# what is done with batches
WRITE, READ, FORGET = "write", "read", "forget"


def describe(
    job: Job,
    endpoint: Endpoint,
    spending: Spending,
    engine: Engine,
    *,
    retry_failed: bool = False,
    batch: str | None = None,
    results: Sequence[Path] = (),
    only_estimate: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any] | None:
    """Ask about the pictures of a job that was begun, and write what is known then.

    Args:
        spending: with a ledger in the job's folder (:func:`ledger_of`), so that limits hold over restarts.
        batch: :data:`WRITE` what has no caption to files, :data:`READ` files of ``results``, or :data:`FORGET` what lies in
            batches; None: ask.
        only_estimate: say what it will take, and do nothing more.
        say: is told what a person wants to know on the way.

    Returns:
        What :file:`about.json` says, with ``asked``, how the asking went; None where it was only estimated.

    Raises:
        CaptionError: if the limit of cost ended it; what was answered is kept, and written.
        EndpointError: if the endpoint cannot be asked at all; what was answered is kept.
    """
    why = ""
    kept = KeptAnswers(endpoint.cache)
    try:
        with Batches(job) as batches:
            if batch == FORGET:
                say(f"{batches.forget():,} requests in batches are let go of")
            if batch == READ:
                for kind, count in sorted(batches.read(results, kept, spending).items()):
                    say(f"{count:,} {kind}")
            expected = estimate(job, kept, spending, retry_failed, batches.holds, batches.refused)
            if spending.price is not None:
                spending.set_aside = spending.price.batch * spending.price.of(expected.waiting_most)
            say(expected.told(spending.price, spending.share(batch is not None)))
            if only_estimate:
                return None
            if batch == WRITE:
                _check_cost(expected, spending)
                for file in batches.write(endpoint, kept, retry_failed):
                    say(f"{file}: upload it to a batch of {endpoint.model}; then give its results to --batch read")
            elif batch is None:
                total = expected.pictures - expected.waiting

                def left_out(key: str) -> bool:
                    return batches.holds(key) or (batches.refused(key) and not retry_failed)

                why = by_endpoint.ask(job, endpoint, spending, retry_failed=retry_failed, leave_out=left_out, total=total)
    finally:
        kept.close()
        # of every end, also of one by an error
        write_whole(job.out / ASKED, json.dumps(_how(spending), indent=2))
    price = None if spending.price is None else asdict(spending.price)
    said = [*by_endpoint.said_in(job, endpoint.cache), job.work / WAITING]
    how = _how(spending)
    written = job.write(engine, said, {"endpoint": endpoint.name, "price": price, "paid_usd": how["paid_usd"]})
    if why:
        raise CaptionError(f"{why} What was answered is kept, and written; with a higher --max-cost the same command goes on.")
    if not remaining(written):
        job.end()
    return {**written, "asked": how}


def ledger_of(job: Job) -> Path:
    """The file of what was sent."""
    return job.work / by_endpoint.SENT


def _check_cost(expected: Estimate, spending: Spending) -> None:
    limit = spending.limits.cost
    if limit is not None and spending.price is not None:
        most = spending.cost() + spending.price.batch * spending.price.of(expected.most)
        if most > limit:
            raise CaptionError(f"a batch of all of them may bring the cost to {most:.2f} USD, more than --max-cost {limit:g}.")


def _how(spending: Spending) -> dict[str, Any]:
    """How the asking went, over all runs."""
    faults = spending.ledger.faults()
    requests, price = faults.pop("requests"), spending.price
    return {
        "requests": requests,
        # answers that said nothing of their tokens that can be used; counted among what was perhaps paid
        "without_usage": spending.ledger.untold(),
        "retries": sum(faults.values()),
        "faults": dict(sorted(faults.items())),
        "tokens": asdict(spending.tokens()),
        # of requests that said nothing: cut off, too slow, or killed
        "perhaps_tokens": asdict(spending.perhaps()),
        "paid_usd": None if price is None else round(spending.paid(), 6),
        "perhaps_usd": None if price is None else round(price.of(spending.perhaps()), 6),
    }
