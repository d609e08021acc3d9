"""``pargo data mixture``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from pargo_mllm.data.preparation.mixture import parts, write_mixture


def run(options: argparse.Namespace) -> None:
    """Write the file, and say what share of training each part will be."""
    mixed = parts(options.prepared, options.weights)
    write_mixture(mixed, options.out)
    total = sum(part.weight for part in mixed)
    if options.json:
        print(json.dumps([{**asdict(part), "folder": str(part.folder), "share": part.weight / total} for part in mixed]))
        return
    print(f"{options.out}:")
    for part in mixed:
        print(f"{100 * part.weight / total:5.1f} %  {part.name:<16} {part.records:>12,} records in {part.folder}")
