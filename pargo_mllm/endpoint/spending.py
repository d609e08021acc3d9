"""What may be spent: tokens in any minute, and money."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pargo_mllm.endpoint.ledger import BATCH, FREE, PAID, PERHAPS, UNTOLD, Ledger
from pargo_mllm.endpoint.prices import Price
from pargo_mllm.endpoint.usage import Usage
from pargo_mllm.endpoint.windows import SlidingWindow
from pargo_mllm.errors import UserError

# so many answers must have said what they took before requests go side by side
FEW = 3
# of the dearest so far, what a request is taken to cost at most: one picture is not counted quite like another
_MARGIN = 1.1


class BudgetReached(UserError):
    """The next request could cost more than is left."""


@dataclass(frozen=True)
class Limits:
    """What may be used at most in any window of ``seconds``; None: no limit.

    Args:
        requests, input_tokens, output_tokens: those of all attempts, whatever became of them.
        cost: USD, of all runs that share a ledger.
    """

    requests: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float = 60.0
    cost: float | None = None


@dataclass
class Spent:
    """A request that is under way."""

    most: Usage
    row: int
    teaches: bool
    held: list[int] = field(default_factory=list)


class Spending:
    """Counts what requests take, and says when the next one may be sent.

    Of a request its expected prompt and its longest answer are held; what is not used is given back when it has answered. How
    many tokens an endpoint makes of a prompt, and how far its answers go beyond their limit (with what a model thinks), is
    learned from what it says: expected ones are multiplied by the largest share that was seen, and with a limit of cost by a
    tenth more. Where the limit is one of the prompts' tokens or of money, requests of which that is not known go one at a time:
    the first few, and any with a larger prompt than all that have answered.

    Args:
        limits: that hold over all runs with the same ledger.
        ledger: the file of what was sent; None: limits hold in this process alone.
        price: of the model's tokens; without it nothing is known of money.
        clock, calendar: seconds of a clock that does not go back, and since 1970.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        ledger: Path | None = None,
        price: Price | None = None,
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
    ):
        self.limits, self.price = limits or Limits(), price
        if self.limits.cost is not None and price is None:
            raise ValueError("a limit of cost needs a price")
        self._clock, self._calendar = clock, calendar
        self.ledger = Ledger(ledger, calendar())
        limited: list[tuple[int | None, Callable[[Usage], int]]] = [
            (self.limits.requests, lambda usage: 1),
            (self.limits.input_tokens, lambda usage: usage.input),
            (self.limits.output_tokens, lambda usage: usage.output),
        ]
        self._windows = [(SlidingWindow(limit, self.limits.seconds), amount) for limit, amount in limited if limit is not None]
        now, today = clock(), calendar()
        for ended, usage in self.ledger.recent(today - self.limits.seconds):
            for window, amount in self._windows:
                window.recall(amount(usage), now - max(0.0, today - ended))
        sums = self.ledger.sums()
        self._sums = {state: sums.get(state, Usage()) for state in (PAID, PERHAPS, BATCH)}
        self._sums[PERHAPS] += sums.get(UNTOLD, Usage())
        self._held = Usage()
        # USD of what is under way elsewhere: in batches
        self.set_aside = 0.0
        self.under_way = 0
        # what was taken of what was expected, at most
        self._input_share = self._output_share = 0.0
        self._heard, self._largest, self._teaching = 0, 0, 0

    def most(self, expected: Usage) -> Usage:
        """What a request takes at most, as far as is known."""
        margin = _MARGIN if self.limits.cost is not None else 1.0
        input = math.ceil(expected.input * self._input_share * margin - 1e-9)
        # an answer that was cut off took all that was expected, and not more
        beyond = self._output_share * margin if self._output_share > 1 else 0.0
        return Usage(max(expected.input, input), max(expected.output, math.ceil(expected.output * beyond - 1e-9)))

    def learn(self, expected: Usage, usage: Usage) -> None:
        """An answer took so much, in this run or in another one."""
        self._heard += 1
        self._largest = max(self._largest, expected.input)
        if expected.input:
            self._input_share = max(self._input_share, usage.input / expected.input)
        if expected.output:
            self._output_share = max(self._output_share, usage.output / expected.output)

    def _teaches(self, expected: Usage) -> bool:
        learns = self.limits.input_tokens is not None or self.limits.cost is not None
        return learns and expected.input > 0 and (self._heard < FEW or expected.input > self._largest)

    def wait(self, expected: Usage) -> float:
        """Seconds until a request may be sent; 0: now; infinite: when another one has ended.

        Raises:
            BudgetReached: if its cost could exceed what is left when all that is under way has ended.
            UserError: if it is more than a whole limit.
        """
        most, now = self.most(expected), self._clock()
        for window, amount in self._windows:
            if amount(most) > window.limit:
                raise UserError(
                    f"a request of {most.input:,} and at most {most.output:,} tokens is more than the limit of "
                    f"{window.limit:,}; raise the limit, or ask for less: smaller pictures, fewer tokens of an answer."
                )
        if self.limits.cost is not None and self.price is not None and self.cost() + self.price.of(most) > self.limits.cost:
            if self.under_way:
                return float("inf")
            raise BudgetReached(
                f"{self.told()}, and the next request may cost {self.price.of(most):.4f}: more than the limit of "
                f"{self.limits.cost:g} USD."
            )
        if self._teaching and self._teaches(expected):
            return float("inf")
        return max((window.wait(amount(most), now) for window, amount in self._windows), default=0.0)

    def begin(self, expected: Usage) -> Spent:
        """A request is sent as soon as this returns."""
        most = self.most(expected)
        held = [window.begin(amount(most)) for window, amount in self._windows]
        spent = Spent(most, self.ledger.begin(most), self._teaches(expected), held)
        self._teaching += spent.teaches
        self._held += most
        self.under_way += 1
        return spent

    def end(self, spent: Spent, expected: Usage, usage: Usage | None, fault: str = "", is_free: bool = False) -> None:
        """A request is over.

        Args:
            usage: what the endpoint says that it took; None where it says nothing: it may have taken all that was held.
            fault: why it is to be asked again.
            is_free: whether the endpoint refused it, so that nothing is to be paid; of the limits it counts in full.
        """
        took = usage or spent.most
        for (window, amount), number in zip(self._windows, spent.held, strict=True):
            window.end(number, amount(took), self._clock())
        state = PAID if usage is not None else FREE if is_free else PERHAPS if fault else UNTOLD
        self.ledger.end(spent.row, took, state, fault, self._calendar())
        if state != FREE:
            self._sums[PERHAPS if state == UNTOLD else state] += took
        self._held = Usage(self._held.input - spent.most.input, self._held.output - spent.most.output)
        self.under_way -= 1
        self._teaching -= spent.teaches
        if usage is not None:
            self.learn(expected, usage)
        elif state == UNTOLD:
            # from an endpoint that says nothing there is nothing to learn
            self._heard += 1
            self._largest = max(self._largest, expected.input)

    def paid(self) -> float:
        """USD of all runs, as far as endpoints said; 0 where no price is known."""
        if self.price is None:
            return 0.0
        return self.price.of(self._sums[PAID]) + self.price.batch * self.price.of(self._sums[BATCH])

    def cost(self) -> float:
        """USD of all runs: what was paid, what perhaps was, and the most that is under way; 0 where no price is known."""
        if self.price is None:
            return 0.0
        return self.paid() + self.set_aside + sum(map(self.price.of, (self._sums[PERHAPS], self._held)))

    def told(self) -> str:
        """The cost as a person reads it: what was paid, and what perhaps was or will be."""
        beside = self.cost() - self.paid()
        return f"{self.paid():.4f} USD" + (f" and perhaps {beside:.4f} more" if round(beside, 4) else "")

    def share(self, in_batch: bool) -> float:
        """Of the price, what a request costs."""
        return self.price.batch if in_batch and self.price is not None else 1.0

    def batch(self, usage: Usage) -> None:
        """A request of a batch was answered, and took so much; of no limit of time."""
        self.ledger.end(self.ledger.begin(usage), usage, BATCH, "", 0.0)
        self._sums[BATCH] += usage

    def tokens(self) -> Usage:
        """Of all runs, what endpoints said."""
        return self._sums[PAID] + self._sums[BATCH]

    def perhaps(self) -> Usage:
        """Of all runs, the most that requests may have taken that said nothing: cut off, too slow, or killed."""
        return self._sums[PERHAPS]
