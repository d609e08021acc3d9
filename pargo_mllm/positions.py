"""How long a text a language model takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def max_positions(text_config) -> int | None:
    """Tokens that a language model was made for, RoPE's scaling included; None where its configuration names no end."""
    positions = getattr(text_config, "max_position_embeddings", None)
    if not isinstance(positions, int):
        return None
    scaled = [_scaled(positions, rope) for rope in _ropes(text_config)]
    # each kind of layer has its own; the sequence has to fit all of them
    return max(positions, min(scaled, default=positions))


def _ropes(text_config) -> Iterator[dict[str, Any]]:
    parameters = getattr(text_config, "rope_parameters", None) or {}
    kinds = [value for value in parameters.values() if isinstance(value, dict) and "rope_type" in value]
    yield from kinds or [parameters]


def _scaled(positions: int, rope: dict[str, Any]) -> int:
    original = rope.get("original_max_position_embeddings") or positions
    return int(original * (rope.get("factor") or 1))
