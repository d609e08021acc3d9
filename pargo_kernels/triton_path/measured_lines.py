"""Which lines of the launch table were measured, and on what: what is the fastest on one GPU and Triton need not be on another.

The file stands beside the table and holds the measured lines whole: a line that is changed by hand is measured no longer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from pargo_kernels.triton_path.launch_table import TABLE

MEASURED = TABLE.with_name("launch_table_measured.json")


def measured_lines() -> list[tuple[list, str]]:
    """(line of the table, what it was measured on) of every line that was measured and still stands in the table."""
    if not MEASURED.exists():
        return []
    lines = json.loads(TABLE.read_text())
    return [(line, about) for line, about in json.loads(MEASURED.read_text()) if line in lines]


def add_measured(lines: Iterable[list], about: str) -> None:
    """Say on what these lines of the table were measured; what does not stand in the table any more is dropped."""
    new = [list(line) for line in lines]
    kept = [pair for pair in measured_lines() if pair[0] not in new]
    body = ",\n".join(json.dumps(pair) for pair in sorted([*kept, *((line, about) for line in new)], key=lambda pair: pair[0]))
    MEASURED.write_text(f"[\n{body}\n]\n")


def summary() -> str:
    """How many lines were measured, and on what."""
    total = len(json.loads(TABLE.read_text()))
    found = measured_lines()
    places = "; ".join(dict.fromkeys(about for _, about in found))
    return f"{len(found)} of {total} lines measured" + (f" ({places})" if places else "")
