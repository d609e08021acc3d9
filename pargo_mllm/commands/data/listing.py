"""``pargo data list``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from pargo_cli.data_sets import DATA_SETS
from pargo_mllm.data.preparation.data_set import DataSet
from pargo_mllm.data.preparation.sets import find


def run(options: argparse.Namespace) -> None:
    """Print what can be prepared: all sets in a table, or those that are named with all that is known of them."""
    sets = [find(name) for name in options.names or DATA_SETS]
    if options.json:
        print(json.dumps([{key: value for key, value in asdict(one).items() if key != "entries"} for one in sets]))
    elif options.names:
        print("\n\n".join(map(described, sets)))
    else:
        print(table(sets))


def table(sets: list[DataSet]) -> str:
    """The sets of each kind: name, weight in a mixture, size, what must lie in ``--src``, licence."""
    lines = []
    for kind in dict.fromkeys(one.kind for one in sets):
        lines.append(f"{kind}:")
        for one in (one for one in sets if one.kind == kind):
            lines += [f"  {one.name:<14} {one.weight:>6.3g}  {one.size}"]
            lines += [f"{'':<25}needs {', '.join(need.name for need in one.needs)}", f"{'':<25}{one.licence}"]
        lines.append("")
    return "\n".join([*lines, "The number is the weight in a mixture. pargo data list NAME says where a set is to be had."])


def described(one: DataSet) -> str:
    """All that is known of a set."""
    rows = [
        ("kind", one.kind),
        ("holds", one.about),
        ("size", one.size),
        ("licence", one.licence),
        ("weight", f"{one.weight:g}"),
        ("splits", ", ".join(one.splits)),
        *([("boxes", "in the frame of --frame")] if one.has_boxes else []),
        *(("needs", f"{need.name}: {need.what}\n{'':<10}{need.home}") for need in one.needs),
    ]
    return "\n".join([f"{one.name}: {one.title}", *(f"  {name:<8}{text}" for name, text in rows)])
