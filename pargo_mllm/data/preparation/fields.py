"""Values of official JSON: of the kind that they should be, or nothing."""

from __future__ import annotations

from typing import Any

from pargo_mllm.errors import UserError

# no number of a data set is larger
MOST = 2.0**53


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
    return _text(row.get(key) if isinstance(row, dict) else None, default)


def line(row: Any, key: str) -> str:
    """A text in one line: white space is one blank, none at the ends; empty for anything else."""
    return one_line(row.get(key) if isinstance(row, dict) else None)


def one_line(value: Any) -> str:
    """The same of a value."""
    return " ".join(_text(value, "").split())


def lines(row: Any, key: str) -> list[str]:
    """A list of texts, each in one line; empty for anything else, and where one of them is none or says nothing."""
    values = row.get(key) if isinstance(row, dict) else None
    said = [one_line(value) for value in values] if isinstance(values, list) else []
    return said if all(said) else []


def _text(value: Any, default: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else default


def whole(row: Any, key: str) -> int:
    """A whole number above 0, and below what any count or size can be; 0 for anything else."""
    value = row.get(key) if isinstance(row, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST else 0


def numbers(values: Any) -> list[float]:
    """A list of finite numbers; empty for anything else, and where one of them is none."""
    if not isinstance(values, (list, tuple)) or any(isinstance(value, bool) for value in values):
        return []
    told = [float(value) for value in values if isinstance(value, (int, float)) and -MOST <= value <= MOST]
    return told if len(told) == len(values) else []
