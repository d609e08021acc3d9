"""``pargo data convert``."""

from __future__ import annotations

import argparse
import json

from pargo_mllm.data.preparation.conversion import Conversion, convert


def run(options: argparse.Namespace) -> None:
    """Convert, and say what became of every record."""
    done = convert(options.file, options.out, options.image_root)
    print(json.dumps(done.told()) if options.json else _told(done))


def _told(done: Conversion) -> str:
    lines = [f"{done.file}: of {done.read:,} records {done.written:,} in {done.out}"]
    lines += [f"skipped {count:,}: {reason}" for reason, count in sorted(done.skipped.items())]
    if done.pictures:
        lines.append(f"{done.pictures:,} pictures that stood in records lie in {done.folder}")
    if done.is_elsewhere:
        lines.append(f"pictures are named from {done.image_root} on: say --image-root {done.image_root} in training")
    return "\n".join(lines)
