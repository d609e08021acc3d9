"""``pargo validate``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pargo_mllm.files import whole_file
from pargo_mllm.jobs import engine_of
from pargo_mllm.validation.data_parts import ValidationError, part_of
from pargo_mllm.validation.findings import Finding
from pargo_mllm.validation.leaks import read_evaluated
from pargo_mllm.validation.run import validate
from pargo_mllm.validation.settings import Settings
from pargo_mllm.validation.telling import lines, page


def run(options: argparse.Namespace) -> int:
    """Validate, and say what was found."""
    settings = Settings(
        decode=options.decode,
        near=options.near,
        model=options.model,
        max_length=options.max_length,
        template=options.template,
        frame=options.frame,
        evaluated=read_evaluated(options.against) if options.against else None,
    )
    if options.max_length is not None and options.model is None:
        raise ValidationError("--max-length counts a model's tokens: give --model too.")
    engine = engine_of(options.engine, options.processes)
    part = part_of(options.data, options.image_root)
    with ExitStack() as held:
        note = held.enter_context(_noting(options.findings)) if options.findings else lambda finding: None
        report = validate(part, settings, engine, note)
    if options.html is not None:
        try:
            page(report, options.html)
        except OSError as error:
            raise ValidationError(f"--html {options.html} cannot be written: {error.strerror or error}.") from error
    print(json.dumps(report.told(options.strict)) if options.json else lines(report))
    return report.status(options.strict)


@contextmanager
def _noting(file: Path) -> Iterator[Callable[[Finding], None]]:
    """Writes findings into a file, one a line."""
    try:
        with whole_file(file) as aside, open(aside, "w", encoding="utf-8") as opened:

            def note(finding: Finding) -> None:
                opened.write(f"{json.dumps(finding.told())}\n")

            yield note
    except OSError as error:
        raise ValidationError(f"--findings {file} cannot be written: {error.strerror or error}.") from error
