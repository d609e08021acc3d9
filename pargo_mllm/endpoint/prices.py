"""What tokens cost, as a file of the user's says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from pargo_mllm.endpoint.usage import Usage
from pargo_mllm.errors import UserError

# of a batch, where the file does not say another share
BATCH = 0.5
_FORM = (
    "a prices file says {MODEL: {input: USD, output: USD}}, per million tokens; cached_input and batch may stand beside them."
)
_KEYS = ("input", "output", "cached_input", "batch")


@dataclass(frozen=True)
class Price:
    """USD per million tokens.

    Args:
        cached_input: of tokens that the endpoint had read before; None: as all others.
        batch: the share of it that a batch costs.
    """

    input: float
    output: float
    cached_input: float | None = None
    batch: float = BATCH

    def of(self, usage: Usage) -> float:
        """USD."""
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = usage.input - usage.cached
        return (fresh * self.input + usage.cached * cached + usage.output * self.output) / 1e6


def read_price(file: Path, model: str) -> Price:
    """The price of a model, of a JSON or YAML file ``{model: {"input", "output"}}``.

    Raises:
        UserError: if the file cannot be read, does not know the model, or says something that is no price.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        told = json.loads(text) if file.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{file} cannot be read as prices: {' '.join(str(error).split())}; {_FORM}") from error
    if not isinstance(told, dict):
        raise UserError(f"{file} holds no prices; {_FORM}")
    if model not in told:
        known = ", ".join(map(str, list(told)[:8])) or "none"
        raise UserError(f"{file} has no price of {model!r}, only of {known}. Add it: {_FORM}")
    return _price(told[model], f"{file}, {model}")


def _price(told: Any, where: str) -> Price:
    if not isinstance(told, dict) or not {"input", "output"} <= told.keys():
        raise UserError(f"{where}: input and output are missing; {_FORM}")
    if unknown := [str(key) for key in told if key not in _KEYS]:
        raise UserError(f"{where}: {', '.join(unknown[:4])} is none of {', '.join(_KEYS)}; {_FORM}")
    for key, value in told.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 <= value <= 1e9 and isfinite(value)):
            raise UserError(f"{where}: {key}={str(value)[:40]!r} is no number from 0; {_FORM}")
    return Price(**told)
