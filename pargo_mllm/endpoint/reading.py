"""What an endpoint's body says: an answer, a failure, or that it is worth asking again."""

from __future__ import annotations

import json
from typing import Any

from pargo_mllm.endpoint.kept import Answer, Failure
from pargo_mllm.endpoint.usage import usage_of


class Again(Exception):
    """No answer this time; the message says why.

    Args:
        wait: seconds that the endpoint itself asks to wait, or None.
    """

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


def answer_of(body: Any, text: str) -> Answer | Failure:
    """The answer of a body that came with status 200.

    Raises:
        Again: for a body that is none of an answer.
    """
    choice = at(body, "choices", 0)
    message = at(choice, "message")
    if not isinstance(message, dict):
        raise Again(f"an answer that is none: {told(body, text)}")
    usage = usage_of(body)
    if refusal := message.get("refusal"):
        return Failure(f"refused: {_shortened(refusal)}", by_model=True, kind="refusal", usage=usage)
    finish, content = at(choice, "finish_reason"), _joined(message.get("content"))
    if finish in ("length", "content_filter"):
        return Failure(f"cut off (finish_reason {finish})", by_model=True, kind=finish, usage=usage)
    if not isinstance(content, str) or not content.strip():
        return Failure(f"empty (finish_reason {_shortened(finish)})", by_model=True, kind="empty", usage=usage)
    model = at(body, "model")
    if not _is_text(content):
        # it was paid for, and may come again and again
        return Failure("it holds halves of characters", by_model=True, kind="damaged", usage=usage)
    return Answer(content, model if isinstance(model, str) and _is_text(model) else "", usage)


def _joined(content: Any) -> Any:
    """The text of a content that comes in parts; anything else as it is."""
    if isinstance(content, list) and all(isinstance(at(part, "text"), str) for part in content):
        return "".join(part["text"] for part in content)
    return content


def parsed(text: str) -> Any:
    """The JSON of a text; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def at(value: Any, *path: str | int) -> Any:
    """What is there, or None."""
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


def told(body: Any, text: str) -> str:
    """What an endpoint says of a fault."""
    message = at(body, "error", "message") or at(body, "message")
    return _shortened(message if isinstance(message, str) else text) or "nothing"


def _shortened(text: Any) -> str:
    """On one line, and short; without halves of characters, which no file takes."""
    return " ".join(str(text).split())[:200].encode("utf-8", "replace").decode()


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
