"""``pargo validate``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from pargo_mllm.data.open_corpus import is_list
from pargo_mllm.files import whole_file
from pargo_mllm.jobs import engine_of
from pargo_mllm.reports.page import check_page
from pargo_mllm.training.recipes import load_recipe
from pargo_mllm.validation.division import DividedSet, ValidationError, part_of
from pargo_mllm.validation.findings import Finding
from pargo_mllm.validation.leaks import read_evaluated
from pargo_mllm.validation.outputs import check_outputs
from pargo_mllm.validation.run import CLEAN, ERRORS, WARNINGS, compare_frames, validate
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
    parts = _parts(options.data, options.image_root)
    check_outputs(options.findings, options.html, parts, options.against)
    if options.html is not None:
        check_page(options.html)
    with ExitStack() as held:
        note = held.enter_context(_noting(options.findings)) if options.findings else lambda data, finding: None
        reports = [validate(part, settings, engine, partial(note, str(part.path))) for part in parts]
        compare_frames(reports, note)
    if options.html is not None:
        try:
            page(reports, options.html.resolve())
        except OSError as error:
            raise ValidationError(f"--html {options.html} cannot be written: {error.strerror or error}.") from error
    statuses = [report.status(options.strict) for report in reports]
    # errors above warnings above nothing
    status = next((one for one in (ERRORS, WARNINGS) if one in statuses), CLEAN)
    if options.json:
        told = [report.told(options.strict) for report in reports]
        print(json.dumps(told[0] if len(told) == 1 else {"data": options.data, "status": status, "parts": told}))
    else:
        print("\n\n".join(map(lines, reports)))
    return status


def _parts(data: str, image_root: Path | None) -> list[DividedSet]:
    """What training takes: a path, or several, as a recipe says them. What is generated is left out of several."""
    asked = load_recipe("mini-stage2", {"data": data}).data or ()
    if len(asked) > 1:
        asked = tuple(part for part in asked if isinstance(part.source, Path))
    if image_root is not None and not any(isinstance(part.source, Path) and is_list(part.source) for part in asked):
        raise ValidationError(f"--image-root says where LLaVA lists have their pictures; {data} has none: leave it out.")
    found = []
    for part in asked:
        source = part.source if isinstance(part.source, Path) else str(part.source)
        root = image_root if isinstance(source, Path) and is_list(source) else None
        found.append(part_of(source, part.image_root or root))
    return found


@contextmanager
def _noting(file: Path) -> Iterator[Callable[[str, Finding], None]]:
    """Writes findings into a file, one a line."""
    try:
        # a pipe or a device is written to as it is, a link's file is written anew where it lies
        is_stream = file.exists() and (not file.is_file() or file.absolute().is_relative_to("/dev"))
        with (
            nullcontext(file) if is_stream else whole_file(file.resolve()) as aside,
            open(aside, "w", encoding="utf-8") as opened,
        ):

            def note(data: str, finding: Finding) -> None:
                opened.write(f"{json.dumps({'data': data, **finding.told()})}\n")

            yield note
    except OSError as error:
        raise ValidationError(
            f"--findings {file}: {error.filename or 'it'} cannot be used: {error.strerror or error}."
        ) from error
