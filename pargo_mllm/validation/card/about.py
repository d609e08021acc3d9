"""Where a set comes from: what its preparation wrote, and what a user says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pargo_mllm.data.corpus import is_text, shown
from pargo_mllm.data.sources.opening import open_regular
from pargo_mllm.data.sources.shards import ABOUT
from pargo_mllm.validation.division import DividedSet

# bytes of the file, characters of a text in it
_MOST, _LONGEST = 2**20, 2000


@dataclass(frozen=True)
class About:
    """What is said of a set beside its samples; None where nobody says it.

    Args:
        title: a name for people.
        kind: of :class:`pargo_mllm.data.preparation.data_set.DataSet`: "coarse captions", …
        skipped: entries of the official files that became no record, by reason.
    """

    title: str
    licence: str | None = None
    source: str | None = None
    kind: str | None = None
    language: str | None = None
    skipped: tuple[tuple[str, int], ...] = ()


def about_of(part: DividedSet, licence: str | None, source: str | None, title: str | None, language: str | None) -> About:
    """What :file:`about.json` beside the data says, where a user does not say it; hostile until read."""
    told = _read(part.path if part.path.is_dir() and part.form != "list" else part.path.parent)
    homes = told.get("home")
    home = ", ".join(dict.fromkeys(_text(one) or "" for one in homes)) if isinstance(homes, list) else _text(homes)
    skipped = told.get("skipped")
    reasons = skipped.items() if isinstance(skipped, dict) else ()
    return About(
        title or _text(told.get("title")) or shown(part.path.resolve().name or str(part.path)),
        licence or _text(told.get("licence")),
        source or home or None,
        _text(told.get("kind")),
        language,
        tuple((shown(reason), count) for reason, count in reasons if type(count) is int and count > 0),
    )


def _read(folder: Path) -> dict[str, Any]:
    try:
        with open_regular(folder / ABOUT) as opened:
            content = opened.read(_MOST + 1)
        told = json.loads(content) if len(content) <= _MOST else None
    except (OSError, ValueError, RecursionError):
        return {}
    # of another form it says other things by the same names
    return told if isinstance(told, dict) and told.get("format") == 1 else {}


def _text(value: Any) -> str | None:
    return shown(value.strip(), _LONGEST) if isinstance(value, str) and value.strip() and is_text([value]) else None
