"""Tokens: what a request is expected to take, and what it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# more than any request takes: a number beyond is a fault of the endpoint's, and says nothing
MOST = 10**7


@dataclass(frozen=True)
class Usage:
    """Tokens of one request, or of many.

    Args:
        input: of the prompt, its pictures included.
        output: of the answer.
        cached: those of the prompt that the endpoint had read before, which some providers give for less; part of ``input``.
    """

    input: int = 0
    output: int = 0
    cached: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.input + other.input, self.output + other.output, self.cached + other.cached)


NOTHING = Usage()


def usage_of(body: Any) -> Usage | None:
    """What the body of an answer says of its tokens; None where it says nothing that can be used.

    Some providers count an answer's reasoning in the total alone: what goes beyond prompt and answer is of the answer.
    """
    told = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(told, dict):
        return None
    input, output = _tokens(told.get("prompt_tokens")), _tokens(told.get("completion_tokens"))
    if input is None or output is None:
        return None
    total = _tokens(told.get("total_tokens"))
    output = max(output, (total or 0) - input)
    details = told.get("prompt_tokens_details")
    cached = _tokens(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(input, output, min(cached or 0, input))


def _tokens(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST else None
