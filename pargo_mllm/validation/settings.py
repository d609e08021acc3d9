"""What is asked of a validation beside the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pargo_mllm.validation.leaks import Evaluated


@dataclass(frozen=True)
class Settings:
    """What is looked at beside what is always looked at.

    Args:
        decode: whether every picture is decoded, not only its head read.
        near: whether what nearly repeats is looked for: pictures by a hash of their looks and of their content, answers by
            MinHash of their words.
        model: a folder whose tokenizer, template and pictures' tokens say how long a record is.
        max_length: tokens of a record at most; the model's positions when None.
        template: of :data:`pargo_mllm.data.feeding.conversations.TEMPLATES`.
        frame: of boxes whose record declares none.
        evaluated: questions and pictures that must not be trained on.
    """

    decode: bool = False
    near: bool = False
    model: Path | None = None
    max_length: int | None = None
    template: str = "chat"
    frame: str | None = None
    evaluated: Evaluated | None = None
