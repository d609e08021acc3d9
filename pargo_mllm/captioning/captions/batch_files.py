"""Files of providers' batches: requests that are answered within a day, mostly at half the price.

The form is OpenAI's (``/v1/batches``), which Gemini's OpenAI-compatible endpoint takes too: a line a request, ``{"custom_id",
"method", "url", "body"}``. Results come in any order, in a file of answers and one of errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pargo_mllm.data.sources.json_rows import DAMAGED, json_lines
from pargo_mllm.endpoint.kept import Answer, Failure
from pargo_mllm.endpoint.reading import Again, answer_of, at, told

# a request that a batch did not take: asked again as it is, it would not be taken again
NOT_TAKEN = "batch not taken"
URL = "/v1/chat/completions"
# of a file; OpenAI takes 200 MB
MAX_LINES, MAX_BYTES = 50_000, 195_000_000

# statuses that are not for the request itself: of key, address, time, and number of requests
_OTHERWISE = (401, 403, 404, 408, 409, 429)


@dataclass(frozen=True)
class Result:
    """A line of a file of results.

    Args:
        key: the request's; None where the line names none.
        said: what the model said, or a failure of the kind :data:`NOT_TAKEN`; None where it may be asked as it is.
        fault: why there is no answer: the same for all of its kind.
    """

    key: str | None
    said: Answer | Failure | None
    fault: str = ""


def request_line(key: str, body: dict[str, Any]) -> bytes:
    """A request as a line; its result is told by its key."""
    return json.dumps({"custom_id": key, "method": "POST", "url": URL, "body": body}).encode() + b"\n"


def read_results(file: Path) -> Iterator[Result]:
    """The lines of a file of answers, or of errors.

    Raises:
        CorpusError: if it cannot be read.
    """
    for row in json_lines(file):
        key = at(row.value, "custom_id")
        if row.value is DAMAGED or not isinstance(key, str):
            yield Result(None, None, "lines that are no result")
            continue
        response = at(row.value, "response")
        body = at(response, "body")
        if at(response, "status_code") == 200:
            try:
                yield Result(key, answer_of(body, "a line of results"))
            except Again:
                yield Result(key, None, "answers that are none")
            continue
        status = at(response, "status_code")
        code = at(row.value, "error", "code") or at(body, "error", "code") or status
        fault = f"not answered: {told(None, str(code))}"
        refused = isinstance(status, int) and 400 <= status < 500 and status not in _OTHERWISE
        reason = f"HTTP {status}: {told(body, json.dumps(body)[:1000])}"
        yield Result(key, Failure(reason, kind=NOT_TAKEN) if refused else None, fault)
