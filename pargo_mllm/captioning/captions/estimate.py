"""What captions will take, before anything is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pargo_mllm.captioning.captions.job import Job, said_of
from pargo_mllm.endpoint import Answer, Failure
from pargo_mllm.endpoint.kept import KeptAnswers
from pargo_mllm.endpoint.prices import Price
from pargo_mllm.endpoint.usage import NOTHING, Usage


@dataclass(frozen=True)
class Estimate:
    """Of all pictures of a job.

    Args:
        pictures: that can be asked about.
        described: that have a caption.
        failed: that have none, and will not be asked about.
        waiting: in a batch.
        waiting_most: tokens of these, if every answer is as long as it may be.
        to_ask: pictures, equal ones once.
        most: tokens of all requests, if every answer is as long as it may be.
        likely: the same with answers as long as those that are kept; half as long as they may be where none is.
    """

    pictures: int
    described: int
    failed: int
    waiting: int
    waiting_most: Usage
    to_ask: int
    most: Usage
    likely: Usage

    def told(self, price: Price | None, share: float = 1.0) -> str:
        """As a person reads it, with the cost where a price is known."""
        parts = [f"{self.pictures:,} pictures", f"{self.described:,} described"]
        parts += [f"{self.failed:,} failed (--retry-failed asks again)"] if self.failed else []
        parts += [f"{self.waiting:,} in a batch"] if self.waiting else []
        tokens = f"about {self.most.input:,} tokens of prompts, {self.likely.output:,} of answers, at most {self.most.output:,}"
        line = f"{', '.join(parts)}, {self.to_ask:,} to ask about: {tokens}"
        if price is None:
            return f"{line}; what they cost, --prices FILE says"
        return f"{line}; about {share * price.of(self.likely):.2f} USD, at most {share * price.of(self.most):.2f}"


def estimate(
    job: Job, kept: KeptAnswers, retry_failed: bool, is_waiting: Callable[[str], bool] = lambda key: False
) -> Estimate:
    """Of a job that was begun.

    Args:
        kept: what is answered.
        is_waiting: whether a key is in a batch.
    """
    pictures = described = failed = waiting = to_ask = answers = 0
    most, waiting_most, output = NOTHING, NOTHING, 0
    counted: set[int] = set()
    for picture in job.pictures():
        pictures += 1
        said = said_of(picture.key, [kept])
        if isinstance(said, Answer):
            described += 1
        elif isinstance(said, Failure) and not retry_failed:
            failed += 1
        elif is_waiting(picture.key):
            waiting += 1
            waiting_most += job.asked.expected(picture.seen.size)
        elif (number := int(picture.key[:16], 16)) not in counted:
            # of a million pictures 64 bits each, not their keys
            counted.add(number)
            to_ask += 1
            most += job.asked.expected(picture.seen.size)
        if isinstance(said, Answer) and said.usage is not None:
            answers, output = answers + 1, output + said.usage.output
    likely = Usage(most.input, round(to_ask * output / answers) if answers else most.output // 2)
    return Estimate(pictures, described, failed, waiting, waiting_most, to_ask, most, likely)
