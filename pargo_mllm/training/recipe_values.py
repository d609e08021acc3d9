"""Values as recipes write them: YAML without its traps, each value of its key's type."""

from __future__ import annotations

import os
import types
from pathlib import Path
from typing import Any

import yaml

from pargo_mllm.errors import UserError

_MOST_VALUES = 10_000


class RecipeError(UserError):
    """A recipe that cannot run; the message names the key, its value and the rule."""


class _EachKeyOnce(yaml.SafeLoader):
    """YAML would take the last of two values for a key, and say nothing."""

    def construct_mapping(self, node, deep=False):
        # what "<<" brings in is no second time: own keys take its place
        lines: dict[Any, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node, yaml.ScalarNode):
                continue
            key, line = self.construct_object(key_node), key_node.start_mark.line + 1
            if key in lines:
                where = f"in lines {lines[key]} and {line}" if line != lines[key] else f"in line {line}"
                raise ValueError(f"{key} is given twice, {where}; give it once")
            lines[key] = line
        return super().construct_mapping(node, deep)


def plain_yaml(text: str) -> Any:
    """YAML as Python's values. Aliases let a few lines stand for billions of them, or for themselves: these are refused."""
    loaded = yaml.load(text, _EachKeyOnce)
    count, waiting = 0, [loaded]
    while waiting:
        value = waiting.pop()
        count += 1
        if count > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES:,} values, aliases counted as often as they are used")
        waiting += [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, (list, set)) else []
    return loaded


def _can_be_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def typed(key: str, value: Any, kind: Any) -> Any:
    """``value`` as the type of its key."""
    optional = isinstance(kind, types.UnionType) and type(None) in kind.__args__
    if value is None and optional:
        return None
    if optional:
        kind = kind.__args__[0]
    if kind is Path and isinstance(value, str) and not value.strip():
        raise RecipeError(f"{key}={value!r} must be a path; it is empty.")
    if kind is Path and isinstance(value, str) and not _can_be_path(value):
        raise RecipeError(f"{key}={value!r} must be a path; it holds what no path can.")
    if kind in (Path, str) and isinstance(value, (str, int, float, Path)) and not isinstance(value, bool):
        return Path(str(value)).expanduser() if kind is Path else str(value)
    if kind is float and not isinstance(value, bool):
        try:
            # YAML takes 1e-4 for a word
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        Path: "a path",
        str: "text",
        dict: "keys and values",
    }
    raise RecipeError(f"{key}={value!r} must be {words[kind]}.")
