"""What captions will take, before anything is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pargo_mllm.captioning.captions.job import Job, said_of
from pargo_mllm.endpoint import Answer, Failure
from pargo_mllm.endpoint.kept import KeptAnswers
from pargo_mllm.endpoint.prices import Price
from pargo_mllm.endpoint.spending import Spending
from pargo_mllm.endpoint.usage import NOTHING, Usage


@dataclass(frozen=True)
class Estimate:
    """Of all pictures of a job.

    Args:
        pictures: that can be asked about.
        described: that have a caption.
        failed: that have none, and will not be asked about.
        waiting: in a batch.
        waiting_most: tokens of these, at most.
        to_ask: pictures, equal ones once.
        most: tokens of all requests, if every answer is as long as it may be, and each takes as much of what is expected as the
            dearest that is kept.
        likely: the same as those that are kept took on average; answers half as long as they may be where none is.
        learned: how many answers are kept that say what they took.
    """

    pictures: int
    described: int
    failed: int
    waiting: int
    waiting_most: Usage
    to_ask: int
    most: Usage
    likely: Usage
    learned: int

    def told(self, price: Price | None, share: float = 1.0) -> str:
        """As a person reads it, with the cost where a price is known."""
        most, likely = self.most, self.likely
        parts = [f"{self.pictures:,} pictures", f"{self.described:,} described"]
        parts += [f"{self.failed:,} failed (--retry-failed asks again)"] if self.failed else []
        parts += [f"{self.waiting:,} in a batch"] if self.waiting else []
        line = f"{', '.join(parts)}, {self.to_ask:,} to ask about: about {likely.input:,} tokens of prompts (at most "
        line += f"{most.input:,}), {likely.output:,} of answers (at most {most.output:,})"
        if price is None:
            line += "; what they cost, --prices FILE says"
        else:
            line += f"; about {share * price.of(likely):.2f} USD, at most {share * price.of(most):.2f}"
        if self.to_ask and not self.learned:
            line += ". What this endpoint makes of a picture, its first answers will say: it may be many times more"
        return line


def estimate(
    job: Job,
    kept: KeptAnswers,
    spending: Spending,
    retry_failed: bool,
    is_waiting: Callable[[str], bool] = lambda key: False,
    is_refused: Callable[[str], bool] = lambda key: False,
) -> Estimate:
    """Of a job that was begun.

    Args:
        kept: what is answered.
        spending: learns from it.
        is_waiting, is_refused: whether a key is in a batch; whether a batch did not take it.
    """
    pictures = described = failed = waiting = to_ask = learned = 0
    expected, expected_waiting, expected_of_kept, took = NOTHING, NOTHING, NOTHING, NOTHING
    counted: set[int] = set()
    for picture in job.pictures():
        pictures += 1
        said = said_of(picture.key, [kept])
        one = job.asked.expected(picture.seen.size)
        if isinstance(said, Answer):
            described += 1
        elif is_waiting(picture.key):
            waiting += 1
            # of a million pictures 64 bits each, not their keys
            if (number := int(picture.key[:16], 16)) not in counted:
                counted.add(number)
                expected_waiting += one
        elif (isinstance(said, Failure) or is_refused(picture.key)) and not retry_failed:
            failed += 1
        elif (number := int(picture.key[:16], 16)) not in counted:
            counted.add(number)
            to_ask += 1
            expected += one
        if said is not None and said.usage is not None:
            spending.learn(one, said.usage)
            learned += 1
            expected_of_kept += one
            took += said.usage
    most = spending.most(expected)
    input, output = expected.input, expected.output // 2
    if learned:
        input = round(expected.input * took.input / expected_of_kept.input)
        output = round(to_ask * took.output / learned)
    likely = Usage(min(input, most.input), min(output, most.output))
    return Estimate(pictures, described, failed, waiting, spending.most(expected_waiting), to_ask, most, likely, learned)
