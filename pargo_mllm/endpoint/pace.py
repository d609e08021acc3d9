"""How fast an endpoint may be asked, as its answers' headers say."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from math import inf, isfinite

from pargo_mllm.endpoint.usage import NOTHING, Usage

# what limits are of, as headers spell it, and what of it a request takes
_KINDS: dict[str, Callable[[Usage], float]] = {
    "requests": lambda usage: 1.0,
    "tokens": lambda usage: usage.input + usage.output,
    "input-tokens": lambda usage: usage.input,
    "output-tokens": lambda usage: usage.output,
}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(?:[Zz]|([+-]\d\d:\d\d))")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


@dataclass
class _Budget:
    """What may still be used of one limit until it is filled up again: by how much, and how long that lasts (seconds)."""

    left: float = inf
    until: float = inf
    full: float = inf
    lasts: float = inf
    # when that was heard
    heard: float = -inf


@dataclass
class Pace:
    """Limits on requests and tokens, one for all who ask the same endpoint. Times are seconds of one clock.

    A limit is waited for before it is hit. What other requests in flight will take is not yet in what a header says is left,
    so they are counted as taken: too cautious rather than refused.
    """

    _paused_until: float = 0.0
    # of the dearest request so far, its pictures included
    _dearest: dict[str, float] = field(default_factory=lambda: {"requests": 1.0})
    _budgets: dict[str, _Budget] = field(default_factory=lambda: {name: _Budget() for name in _KINDS})

    def wait(self, now: float, expected: Usage = NOTHING) -> float:
        """Seconds until the next request, of so many tokens, may be sent; 0: now."""
        until = self._paused_until
        for name, budget in self._budgets.items():
            if budget.until <= now:
                budget.left, budget.until = budget.full, now + budget.lasts
            # what alone is more than the limit is sent when the limit is full
            if budget.left < min(self._cost(name, expected), budget.full):
                until = max(until, budget.until)
        return max(0.0, until - now)

    def sent(self, expected: Usage = NOTHING) -> None:
        """A request was sent."""
        for name, budget in self._budgets.items():
            budget.left -= self._cost(name, expected)

    def heard(
        self,
        headers: Mapping[str, str],
        in_flight: int,
        tokens: float,
        now: float,
        usage: Usage | None = None,
        today: float = 0.0,
        sent: float = inf,
    ) -> None:
        """An answer has come. One that was overtaken knows of fewer requests: what was asked before the last answer was
        heard says how little is left, never how much.

        Args:
            headers: ``x-ratelimit-remaining-requests``, ``x-ratelimit-reset-requests`` and ``x-ratelimit-limit-requests``, the
                same of ``tokens``, ``input-tokens`` and ``output-tokens``, or none of them; also as Anthropic orders the words
                (``anthropic-ratelimit-requests-remaining``), whose resets are dates.
            in_flight: requests that are sent and not answered.
            tokens: that it took, prompt and answer; 0 where it does not say.
            usage: the two apart, where it says them.
            today: seconds since 1970, UTC.
            sent: when it was asked.
        """
        told = NOTHING if usage is None else usage
        for name, of in _KINDS.items():
            took = max(tokens if name == "tokens" else 0.0, of(told))
            self._dearest[name] = max(self._dearest.get(name, 0.0), took)
        for name, budget in self._budgets.items():
            left = _number(_limit(headers, name, "remaining"))
            reset = retry_after(_limit(headers, name, "reset"), today)
            if left is not None and reset is not None:
                left -= in_flight * self._dearest[name]
                if sent < budget.heard and now < budget.until and left >= budget.left:
                    continue
                budget.left, budget.until, budget.heard = left, now + reset, now
                full = _number(_limit(headers, name, "limit"))
                budget.full, budget.lasts = full or inf, reset

    def pause(self, until: float) -> None:
        """Nobody asks before ``until``."""
        self._paused_until = max(self._paused_until, until)

    def _cost(self, name: str, expected: Usage) -> float:
        return max(self._dearest.get(name, 0.0), _KINDS[name](expected))


def _limit(headers: Mapping[str, str], name: str, what: str) -> str | None:
    return headers.get(f"x-ratelimit-{what}-{name}") or headers.get(f"anthropic-ratelimit-{name}-{what}")


def seconds(text: str | None) -> float | None:
    """A duration: seconds as a number, or ``6m0s``, ``20ms``, ``1h2m3.5s``; None for anything else."""
    number = _number(text)
    if number is not None:
        return number
    compact = (text or "").strip().lower()
    if not compact or _DURATION.sub("", compact):
        return None
    return sum(float(amount) * _UNITS[unit] for amount, unit in _DURATION.findall(compact))


def retry_after(text: str | None, now: float) -> float | None:
    """Seconds of a ``Retry-After`` header: a number, or a date of HTTP or of RFC 3339; None where it is none of them.

    Args:
        now: seconds since 1970, UTC.
    """
    duration = seconds(text)
    if duration is not None or text is None:
        return duration
    try:
        stamp = _STAMP.fullmatch(text.strip())
        date = datetime.fromisoformat(f"{stamp[1]}{stamp[2] or '+00:00'}") if stamp else parsedate_to_datetime(text)
        # a date of HTTP is in GMT, whether it says so or not
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if isfinite(number) and number >= 0 else None
