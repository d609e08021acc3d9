"""``pargo data list``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from pargo_cli.data_sets import DATA_SETS
from pargo_mllm.data.preparation.sets import find


def run(options: argparse.Namespace) -> None:
    """Print what can be prepared."""
    sets = [find(name) for name in options.names or DATA_SETS]
    if options.json:
        told = [{key: value for key, value in asdict(one).items() if key != "entries"} for one in sets]
        print(json.dumps(told))
        return
    for one in sets:
        print(f"{one.name:<16} {one.title}: {one.about} ({one.kind})\n{'':<16} {one.size}\n{'':<16} {one.licence}")
        if options.names:
            for need in one.needs:
                print(f"{'':<16} {need.name}: {need.what}, {need.home}")
