"""Values of official JSON: of the kind that they should be, or nothing."""

from __future__ import annotations

from typing import Any

from pargo_mllm.errors import UserError


def of_object(value: Any, name: str) -> dict[str, Any]:
    """An object.

    Raises:
        UserError: naming the file, if it is none.
    """
    if not isinstance(value, dict):
        raise UserError(f"{name} holds no object of names and values, but a {type(value).__name__}.")
    return value


def of_list(told: dict[str, Any], key: str, name: str) -> list[Any]:
    """The list that an object has under a key.

    Raises:
        UserError: naming the file and the key, if it is none.
    """
    if not isinstance(told.get(key), list):
        raise UserError(f"{name} has no list {key!r}; it has {', '.join(list(told)[:8]) or 'nothing'}.")
    return told[key]


def text(row: Any, key: str, default: str = "") -> str:
    """A text, or a whole number as one; ``default`` for anything else."""
    value = row.get(key) if isinstance(row, dict) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else default


def whole(row: Any, key: str) -> int:
    """A whole number above 0; 0 for anything else."""
    value = row.get(key) if isinstance(row, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
