"""What is asked about a picture, and what its answer is kept under."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pargo_mllm.captioning.captions.sent_picture import data_url, picture_tokens, sent_size, text_tokens
from pargo_mllm.data.corpus import is_text
from pargo_mllm.data.sources.llava_records import MARK
from pargo_mllm.endpoint import Request
from pargo_mllm.endpoint.usage import Usage
from pargo_mllm.errors import UserError

PROMPT = Path(__file__).with_name("prompt.txt")
# characters
MAX_PROMPT = 100_000
# what a chat template sets around a message
_AROUND = 20
# how endpoints call the most tokens of an answer
_LONGEST = ("max_completion_tokens", "max_tokens")


class CaptionError(UserError):
    """Captions that cannot be made: the message says why, and what helps."""


@dataclass(frozen=True)
class Asked:
    """The question that all pictures are asked about.

    Args:
        model: as the endpoint calls it, or the digest of a model folder.
        max_tokens: of an answer; one that is longer is a failure.
        max_side: pixels; larger pictures are scaled down.
        detail: "low" or "high", for endpoints that know it; None: not sent.
        parameters: others, as the endpoint calls them.
    """

    prompt: str
    model: str
    max_tokens: int = 1024
    max_side: int = 2048
    detail: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """What a caption depends on, as JSON. The longest answer is none of it: what was not cut off would be the same."""
        told = {name: value for name, value in self.parameters.items() if name not in _LONGEST}
        return {
            "prompt": self.prompt,
            "model": self.model,
            "max_side": self.max_side,
            "detail": self.detail,
            "parameters": told,
        }

    def key(self, digest: str) -> str:
        """What the caption of a picture is kept under: 64 hexadecimal digits.

        Args:
            digest: SHA-256 of the picture's bytes.
        """
        return hashlib.sha256(json.dumps([digest, self.settings()], sort_keys=True).encode()).hexdigest()

    @property
    def longest(self) -> int:
        """Tokens of the longest answer."""
        return next((self.parameters[name] for name in _LONGEST if name in self.parameters), self.max_tokens)

    def expected(self, size: tuple[int, int]) -> Usage:
        """Tokens of a request about a picture of a size (width, height), and of its longest answer."""
        picture = picture_tokens(sent_size(size, self.max_side), self.detail)
        return Usage(text_tokens(self.prompt) + picture + _AROUND, self.longest)

    def request(self, content: bytes, name: str, size: tuple[int, int]) -> Request:
        """The request about a picture.

        Raises:
            PictureError: for what is no usable picture.
        """
        image = {"url": data_url(content, name, self.max_side)} | ({"detail": self.detail} if self.detail else {})
        parts = [{"type": "text", "text": self.prompt}, {"type": "image_url", "image_url": image}]
        limit = {} if any(name in self.parameters for name in _LONGEST) else {"max_tokens": self.max_tokens}
        return Request([{"role": "user", "content": parts}], {**limit, **self.parameters}, expected=self.expected(size))


def read_prompt(file: Path | None) -> str:
    """The prompt of a file; ours without one.

    Raises:
        CaptionError: if it cannot be read, says nothing, is too long, or holds the mark of a picture.
    """
    file = file or PROMPT
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise CaptionError(f"{file} cannot be read as a prompt in UTF-8: {error}.") from error
    if not text or len(text) > MAX_PROMPT or not is_text([text]):
        raise CaptionError(f"{file}: a prompt has from 1 to {MAX_PROMPT:,} characters; this has {len(text):,}.")
    if MARK in text:
        raise CaptionError(f"{file} holds {MARK}; a prompt is words alone, the picture is put to it.")
    return text


def read_parameters(text: str) -> dict[str, Any]:
    """Parameters of a request, given as a JSON object.

    Raises:
        CaptionError: for anything else, and for what is said by other options.
    """
    try:
        told = json.loads(text)
        json.dumps(told, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise CaptionError(f"--parameters {text[:80]}: it is no JSON ({error}).") from error
    if not isinstance(told, dict):
        raise CaptionError(f'--parameters {text[:80]}: give an object, such as {{"temperature": 0.2}}.')
    if said := sorted({"model", "messages", "stream", "n"} & told.keys()):
        raise CaptionError(f"--parameters: {', '.join(said)} cannot be set here.")
    for name in _LONGEST:
        if name in told and (not isinstance(told[name], int) or isinstance(told[name], bool) or told[name] < 1):
            raise CaptionError(f"--parameters: {name} must be a whole number from 1.")
    return told
