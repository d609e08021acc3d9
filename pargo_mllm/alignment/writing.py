"""Where what was found is written: a page, and a folder with the figures and the plots."""

from __future__ import annotations

import json
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.run import Outcome
from pargo_mllm.files import write_whole
from pargo_mllm.model_files import read_object
from pargo_mllm.reports.page import check_page

FIGURES_FILE = "align.json"


def check_places(html: Path | None, out: Path | None) -> None:
    """Find out, before the work, whether page and folder may be written.

    Raises:
        UserError: if something else stands there.
    """
    if html is not None:
        check_page(html)
        if not html.parent.is_dir() and html.parent.resolve() != (out and out.resolve()):
            raise AlignmentError(f"--html {html}: {html.parent} is no folder; make it first.")
        if out is not None and html.resolve().parent == out.resolve() and html.name == FIGURES_FILE:
            raise AlignmentError(f"--html {html} is the name of the figures in {out}; give another one.")
    if out is None or not os.path.lexists(out):
        return
    if not out.is_dir():
        raise AlignmentError(f"--out {out} is no folder.")
    try:
        others = any(file != html and file.resolve() != (html and html.resolve()) for file in out.iterdir())
    except OSError as error:
        raise AlignmentError(f"--out {out} cannot be read: {error.strerror or error}.") from error
    if others and _plots_of(out) is None:
        raise AlignmentError(f"--out {out} holds something else; give an absent or empty folder, or one of pargo align.")


def write(outcome: Outcome, html: Path | None, out: Path | None) -> None:
    """Write the page, and the folder, where they are asked for. Plots are drawn where matplotlib is installed."""
    if html is None and out is None:
        return
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside) if out is None else out
        folder.mkdir(parents=True, exist_ok=True)
        for old in _plots_of(folder) or ():
            (folder / old).unlink(missing_ok=True)
        plots: dict[str, Path] = {}
        if find_spec("matplotlib") is not None:
            from pargo_mllm.alignment.plots import draw

            plots = draw(outcome, folder)
        outcome.told["plots"] = [file.name for file in plots.values()]
        if out is not None:
            write_whole(out / FIGURES_FILE, json.dumps(outcome.told, allow_nan=False, indent=1))
        if html is not None:
            from pargo_mllm.alignment.page import write_align_page

            write_align_page(html, outcome, plots)


def _plots_of(folder: Path) -> list[str] | None:
    """The plots that an earlier run drew there; None where none was written there."""
    try:
        told = read_object(folder / FIGURES_FILE, AlignmentError)
        plots = told["plots"]
        ours = isinstance(told["models"], list) and isinstance(told["comparison"], list) and isinstance(plots, list)
    except (AlignmentError, KeyError, TypeError, OSError):
        return None
    return (
        [name for name in plots if isinstance(name, str) and name == Path(name).name and name.endswith(".png")]
        if ours
        else None
    )
