"""Pictures of which each is another one, and a process that describes them."""

import multiprocessing
from pathlib import Path

from PIL import Image

from pargo_mllm.captioning.captions.asked import Asked
from pargo_mllm.captioning.captions.finding import find_pictures
from pargo_mllm.captioning.captions.job import Job
from pargo_mllm.captioning.captions.run import describe, ledger_of
from pargo_mllm.endpoint import Endpoint
from pargo_mllm.endpoint.prices import Price
from pargo_mllm.endpoint.spending import Limits, Spending
from pargo_mllm.jobs import engine_of

SIDE = 32


def write_pictures(folder, count):
    """``00000.png`` … of one size, and each of its own content."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        colour = (number % 256, number // 256 % 256, 77)
        Image.new("RGB", (SIDE, SIDE), colour).save(folder / f"{number:05d}.png")


def describe_pictures(
    url,
    images,
    out,
    cache,
    *,
    limits=None,
    price=None,
    asked=None,
    retry_failed=False,
    processes=1,
    batch=None,
    results=(),
    say=None,
):
    """What ``pargo caption`` does, with windows of a test's length."""
    asked = asked or Asked("what is it?", "m", max_tokens=64)
    engine = engine_of("local", processes)
    endpoint = Endpoint(url, "m", cache, back_off=0.02, timeout=1.0, attempts=8)
    with Job(out, find_pictures(images), asked, images).begun(engine) as job:
        spending = Spending(limits or Limits(), ledger_of(job), price or Price(2.0, 8.0))
        try:
            return describe(
                job,
                endpoint,
                spending,
                engine,
                retry_failed=retry_failed,
                batch=batch,
                results=results,
                say=say or (lambda line: None),
            )
        finally:
            spending.ledger.close()


class Describer:
    """A process that describes; forked before there is a server, whose threads would not come along."""

    def __init__(self, *folders, **how):
        context = multiprocessing.get_context("fork")
        self.here, there = context.Pipe()
        self.process = context.Process(target=self.work, args=(there, folders, how), daemon=True)
        self.process.start()

    @staticmethod
    def work(there, folders, how):
        there.send(describe_pictures(there.recv(), *folders, **how))

    def start(self, server):
        self.here.send(server.url)

    def written(self, seconds=60):
        """What it says in the end."""
        assert self.here.poll(seconds)
        return self.here.recv()

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.join()
