"""``pargo data prepare``."""

from __future__ import annotations

import argparse
import json

from pargo_mllm.data.preparation.data_set import Options, PreparationError
from pargo_mllm.data.preparation.run import Form, prepare
from pargo_mllm.data.preparation.sets import find
from pargo_mllm.jobs import engine_of


def run(options: argparse.Namespace) -> None:
    """Prepare, and say what became of every entry."""
    data_set = find(options.name)
    if options.split is not None and options.split not in data_set.splits:
        raise PreparationError(f"--split {options.split}: {data_set.name} has {', '.join(data_set.splits)}.")
    form = Form(options.per_shard if options.shards else None, options.copy, options.fetch)
    about = prepare(
        data_set,
        options.src,
        options.out,
        Options(options.seed, options.frame, options.split),
        form,
        engine_of(options.engine, options.processes),
    )
    print(json.dumps(about) if options.json else told(about, options.out))


def told(about: dict, out) -> str:
    """What a person reads."""
    lines = [f"{about['title']}: of {about['entries']:,} entries {about['records']:,} records in {out}"]
    lines += [f"skipped {count:,}: {reason}" for reason, count in about["skipped"].items()]
    if about["mean_characters"] is not None:
        lines.append(f"{about['mean_characters']:.1f} characters an answer on average")
    return "\n".join(lines)
