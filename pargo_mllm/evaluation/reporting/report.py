"""The report of evaluations: one JSON file with all that is needed to repeat them, and one page of HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import EvaluationError
from pargo_mllm.evaluation.reporting.comparing import Compared, Comparison, Measured
from pargo_mllm.evaluation.reporting.report_page import figure, page_parts, verdict
from pargo_mllm.evaluation.scoring import versions
from pargo_mllm.files import write_whole
from pargo_mllm.reports.page import check_page, check_written, write_page
from pargo_mllm.reports.statistics import LEVEL, POWER, Estimate


def write_report(
    compared: Compared,
    page: Path,
    figures: Path | None = None,
    difference: float | None = None,
    command: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Write the page, and the JSON beside it unless it has a place of its own.

    Args:
        difference: how many questions it takes to see it is said; in the unit of each benchmark's figure.
        command: the words by which the report was asked for.

    Returns:
        Both files.

    Raises:
        EvaluationError: if they cannot be written.
    """
    figures = page.with_suffix(".json") if figures is None else figures
    if figures == page:
        raise EvaluationError(f"{page} would hold both the page and the JSON; give one of them another name.")
    check_page(page)
    check_written(figures, '{\n "command": ', "report in JSON")
    made = {"command": list(command), "versions": versions(), **as_json(compared, difference)}
    parts = list(page_parts(compared, difference))
    try:
        for file in (page, figures):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(figures, json.dumps(made, indent=1, allow_nan=False) + "\n")
        write_page(page, "ParGo: evaluation", parts)
    except OSError as error:
        raise EvaluationError(f"{error.filename or page} cannot be written: {error.strerror or error}.") from error
    return page, figures


def told(compared: Compared) -> list[str]:
    """The figures and the differences in lines for a terminal."""
    lines = []
    for one in compared.measured:
        scale, estimate = one.headline.value, one.headline
        error = f" ± {figure(estimate.error, scale)}" if estimate.error is not None else ""
        what = f"{one.benchmark.title} ({one.run.rule}) {one.benchmark.headline}"
        lines.append(f"{one.run.name}: {what} {figure(estimate.value, scale)}{error}")
    for other in compared.comparisons:
        gain = figure(other.estimate.value, other.first, signed=True)
        lines.append(f"{other.run.name} against {other.base.name}: {other.figure} {gain}, {verdict(other)}")
    return [*lines, *compared.notes]


def as_json(compared: Compared, difference: float | None = None) -> dict[str, Any]:
    """The report as JSON: runs, each with what it was run with; comparisons; notes."""
    return {
        "level": LEVEL,
        "power": POWER,
        "runs": [_run(one, difference) for one in compared.measured],
        "comparisons": [_comparison(one, difference) for one in compared.comparisons],
        "notes": compared.notes,
    }


def _run(one: Measured, difference: float | None) -> dict[str, Any]:
    run = one.run
    return {
        "name": run.name,
        "folder": str(run.folder),
        **run.about,
        "result": run.result,
        "figure": {"name": one.benchmark.headline, **_estimate(one.headline), **_reason(one.reason)},
        "figures": {place[0]: _estimate(estimate) for place, estimate in one.estimates.items() if len(place) == 1},
        "parts": {place[1]: _estimate(estimate) for place, estimate in one.estimates.items() if len(place) == 2},
        # against another model whose answers have nothing to do with these
        "needed_unpaired": _needed(one.headline, difference, 2.0),
    }


def _comparison(one: Comparison, difference: float | None) -> dict[str, Any]:
    return {
        "first": one.base.name,
        "other": one.run.name,
        "benchmark": one.run.benchmark,
        "rule": one.run.rule,
        "figure": one.figure,
        "first_value": one.first,
        "other_value": one.other,
        "difference": _estimate(one.estimate),
        "figures": {place[0]: _estimate(estimate) for place, estimate in one.others.items() if len(place) == 1},
        "parts": {place[1]: _estimate(estimate) for place, estimate in one.others.items() if len(place) == 2},
        "p": one.p,
        "p_holm": one.adjusted,
        "within_noise": one.within_noise,
        "only_first_better": one.first_better,
        "only_other_better": one.other_better,
        "shared_questions": one.estimate.questions,
        "only_asked_first": one.unshared[0],
        "only_asked_other": one.unshared[1],
        "done_otherwise": [{"what": name, "first": first, "other": other} for name, first, other in one.differs],
        "needed_for_what_was_seen": _needed(one.estimate, abs(one.estimate.value)),
        "needed": _needed(one.estimate, difference),
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "standard_error": estimate.error,
        "naive_standard_error": estimate.naive,
        "interval_95": None if estimate.interval is None else list(estimate.interval),
        "questions": estimate.questions,
        "pictures": estimate.clusters,
        "how": estimate.how,
        "correlation_within_picture": estimate.correlation,
        "design_effect": estimate.design_effect,
    }


def _needed(estimate: Estimate, difference: float | None, times: float = 1.0) -> dict[str, Any] | None:
    if difference is None or not math.isfinite(difference):
        return None
    needed = estimate.needed(difference, times)
    return None if needed is None else {"difference": difference, "questions": needed[0], "pictures": needed[1]}


def _reason(reason: str) -> dict[str, str]:
    return {"reason": reason} if reason else {}
