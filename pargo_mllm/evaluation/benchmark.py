"""What a benchmark is: held-out questions, and what answers to them are worth."""

from __future__ import annotations

from typing import Any, Protocol

from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor


class Benchmark(Protocol):
    """A data set, how a model is asked, and how its answers become figures."""

    @property
    def name(self) -> str:
        """What it is called on the command line and in reports."""

    def score(self, model: ParGoForConditionalGeneration, processor: ParGoProcessor) -> dict[str, Any]:
        """Figures as JSON. Shares lie in 0...1."""
