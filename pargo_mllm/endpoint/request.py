"""What is asked of an endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pargo_mllm.endpoint.usage import NOTHING, Usage
from pargo_mllm.errors import UserError

KEY_VARIABLE = "OPENAI_API_KEY"


class EndpointError(UserError):
    """An endpoint that cannot be asked at all: the message names it, its status, and what helps."""


@dataclass(frozen=True)
class Request:
    """What is asked.

    Args:
        messages: of the chat; a content is a text, or parts, such as pictures as base64.
        parameters: temperature, max_tokens…, as the endpoint calls them.
        run: tells apart what is asked several times over, for an answer each.
        expected: tokens of its prompt, as far as can be told, and of its longest answer; only limits ask for them.
    """

    messages: Sequence[Mapping[str, Any]]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    run: int = 0
    expected: Usage = NOTHING
