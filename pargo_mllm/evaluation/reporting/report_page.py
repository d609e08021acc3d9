"""What the page of a report shows, part by part."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pargo_mllm.data.corpus import shown
from pargo_mllm.data.pictures import load_picture
from pargo_mllm.evaluation.reporting.comparing import Compared, Comparison, Measured
from pargo_mllm.evaluation.runs.failures import chosen
from pargo_mllm.evaluation.runs.run_folder import Failure
from pargo_mllm.reports.bars import Bar, draw_bars
from pargo_mllm.reports.page import bullets, definitions, picture, table, text, unfolds
from pargo_mllm.reports.statistics import Estimate

MISSING = "–"
# characters of a stranger's text
_LONGEST = 1500
_MADE_WITH = ("command", "model", "weights", "data", "prompt", "settings", "versions", "seconds", "pictures_per_second")


def page_parts(compared: Compared, difference: float | None) -> Iterator[str]:
    """The page from top to bottom."""
    runs, benchmarks = compared.measured, {one.run.benchmark: one.benchmark.title for one in compared.measured}
    yield "<h1>Evaluation</h1>"
    yield f"<p class='lead'>{_count(len(runs), 'run')} · {text(', '.join(benchmarks.values()))}</p>"
    yield _figures(runs)
    yield (
        "<p>± is one standard error, clustered by picture: questions about one picture are no samples of their own. The naive "
        "error takes them for such. Shares lie in 0…1, points are as the benchmark publishes them.</p>"
    )
    yield bullets("What is not told", [*_reasons(runs)])
    if compared.comparisons:
        yield "<h2>Differences</h2>"
        yield _differences(compared.comparisons)
        yield _how_compared(compared.comparisons)
    yield bullets("What was compared, and what was not", [*compared.notes, *_otherwise(compared.comparisons)])
    yield "<h2>How many questions a difference takes</h2>"
    yield _power(compared, difference)
    yield (
        "<p>With 80 % power at the 5 % level, for as many questions a picture as here and as alike in it. A run alone is set "
        "beside another model whose answers have nothing to do with its own; two models usually fail together, and then fewer "
        "questions do.</p>"
    )
    yield from _parts(runs)
    for one in runs:
        yield from _failures(one)
    yield "<h2>Made with</h2>"
    for one in runs:
        yield f"<h3>{text(one.run.name)}</h3>"
        about = {name: _told(one.run.about[name]) for name in _MADE_WITH if one.run.about.get(name) is not None}
        yield definitions({"folder": one.run.folder, "rule": one.run.rule, **about})


def figure(value: float | None, scale: float, signed: bool = False) -> str:
    """A figure as text: shares with four digits behind the point, points with two, as ``scale``, the whole figure, is one."""
    if value is None:
        return MISSING
    return f"{value:{'+' if signed else ''},.{4 if abs(scale) <= 1 else 2}f}"


def verdict(comparison: Comparison) -> str:
    """What a difference says, in words."""
    if comparison.estimate.value == 0 and not comparison.first_better and not comparison.other_better:
        return "the same on every question"
    return "within noise" if comparison.within_noise else "beyond noise"


def _figures(runs: list[Measured]) -> str:
    rows = []
    for one in runs:
        for (name,), estimate in ((place, found) for place, found in one.estimates.items() if len(place) == 1):
            scale = estimate.value
            cells = [
                f"{one.benchmark.title}, {name}",
                one.run.rule,
                figure(scale, scale),
                _error(estimate.error, scale),
                _interval(estimate, scale),
                _error(estimate.naive, scale),
                f"{estimate.questions:,}",
                f"{estimate.clusters:,}",
            ]
            rows.append(_row(one.run.name if name == one.benchmark.headline else "", cells))
    return table(["run", "figure", "rule", "value", "error", "95 %", "naive error", "questions", "pictures"], rows)


def _differences(comparisons: list[Comparison]) -> str:
    rows = []
    for one in comparisons:
        scale = one.first
        better = f"{one.first_better:,} / {one.other_better:,}"
        shared = f"{one.estimate.questions:,}"
        values = f"{figure(one.first, scale)} → {figure(one.other, scale)}"
        cells = [values, *_difference(one.estimate, scale), better, shared, f"{one.adjusted:.2g}", verdict(one)]
        rows.append(_row(f"{one.run.name} − {one.base.name}", [f"{one.run.benchmark}, {one.figure}", *cells]))
        for place, estimate in one.others.items():
            if len(place) == 1:
                cells = ["", *_difference(estimate, scale), "", shared, "", ""]
                rows.append(_row("", [f"{one.run.benchmark}, {place[0]}", *cells]))
    header = [
        "runs",
        "figure",
        "from → to",
        "difference",
        "95 %",
        "only first / only other better",
        "shared questions",
        "p",
        "",
    ]
    return table(header, rows)


def _difference(estimate: Estimate, scale: float) -> list[str]:
    return [f"{figure(estimate.value, scale, signed=True)} {_error(estimate.error, scale)}", _interval(estimate, scale)]


def _how_compared(comparisons: list[Comparison]) -> str:
    several = (
        f" {len(comparisons)} comparisons are made here, and among so many one looks large by chance: p is adjusted for their "
        "number (Holm); intervals are not."
        if len(comparisons) > 1
        else ""
    )
    return (
        "<p>Every run against the first one of its benchmark and rule, question by question, clustered by picture. Within "
        f"noise: p of 5 % or more.{several}</p>"
    )


def _power(compared: Compared, difference: float | None) -> str:
    rows = []
    for one in compared.measured:
        rows += _power_rows(f"{one.run.name}, an unrelated other", one.headline, one.headline.value, 2.0, difference, None)
    for other in compared.comparisons:
        name = f"{other.run.name} − {other.base.name}"
        rows += _power_rows(name, other.estimate, other.first, 1.0, difference, abs(other.estimate.value))
    return table(
        ["runs", "these questions show", "to see", "questions", "pictures", "questions a picture", "alike in it"], rows
    )


def _power_rows(
    name: str, estimate: Estimate, scale: float, times: float, asked: float | None, observed: float | None
) -> list[str]:
    shows = None if estimate.detectable is None else estimate.detectable * times**0.5
    alike = MISSING if estimate.correlation is None else f"{estimate.correlation:.2f}"
    rows = []
    for target, note in ((asked, ""), (observed, " (what was seen)")):
        needed = estimate.needed(target, times) if target else None
        if needed is not None:
            cells = [f"{figure(target, scale)}{note}", f"{needed[0]:,}", f"{needed[1]:,}"]
            rows.append(cells)
    density = f"{estimate.questions / estimate.clusters:.3g}"
    return [_row(name, [figure(shows, scale), *cells, density, alike]) for cells in rows or [[MISSING, MISSING, MISSING]]]


def _parts(runs: list[Measured]) -> Iterator[str]:
    groups: dict[tuple[str, str], list[Measured]] = {}
    for one in runs:
        groups.setdefault((one.benchmark.title, one.run.rule), []).append(one)
    for (title, rule), members in groups.items():
        places = dict.fromkeys(place for one in members for place in one.estimates if len(place) == 2)
        bars = {place[1]: [_bar(one.estimates.get(place)) for one in members] for place in places}
        if bars:
            heading = f"{title} by part ({rule})"
            yield f"<h2>{text(heading)}</h2>"
            yield draw_bars([one.run.name for one in members], bars, heading)


def _bar(estimate: Estimate | None) -> Bar | None:
    if estimate is None:
        return None
    error = "" if estimate.error is None else f" ± {figure(estimate.error, estimate.value)}"
    return Bar(max(0.0, estimate.value), estimate.error, f"{figure(estimate.value, estimate.value)}{error}")


def _failures(one: Measured) -> Iterator[str]:
    marks = {mark.item.id: mark for mark in one.run.marks}
    failures = one.run.failures or [Failure(mark.item.id) for mark in chosen(one.run.marks)]
    if not failures:
        return
    wrong = sum(mark.value < 1 for mark in one.run.marks)
    yield f"<h2>Wrong answers: {text(one.run.name)}</h2>"
    yield f"<p>{len(failures):,} of {_count(wrong, 'answer')} that are not fully right, of all parts in turn.</p>"
    reasons = Counter(failure.reason for failure in failures if failure.reason)
    yield "".join(f"<p>{_count(count, 'answer')}: {text(shown(reason, 400))}</p>" for reason, count in reasons.items())
    cards = []
    for failure in failures:
        mark = marks[failure.id]
        entries = {
            "question": _cut(mark.item.question or one.run.asked.get(failure.id, "")),
            "right": _cut(_told(mark.item.answer)),
            "said": _cut(mark.text),
            "understood": _cut(mark.read or MISSING),
            "worth": f"{mark.value:.2g}",
            "part": mark.item.part or MISSING,
            "id": failure.id,
        }
        image = _embedded(failure.picture, f"picture of question {failure.id}")
        attention = _embedded(failure.attention, "the patches that the answer's first tokens looked at")
        looked = unfolds("What the answer looked at", attention) if attention else ""
        prompt = unfolds("What was asked, in full", f"<p>{text(_cut(one.run.asked.get(failure.id, '')))}</p>")
        cards.append(f"<div class='card'>{image}{looked}{definitions(entries)}{prompt}</div>")
    yield f"<div class='cards'>{''.join(cards)}</div>"


def _embedded(file, description: str) -> str:
    if file is None:
        return ""
    # whatever is no picture is refused with its name
    load_picture(file)
    return picture(file, description)


def _reasons(runs: list[Measured]) -> Iterator[str]:
    for one in runs:
        estimate = one.headline
        if one.reason:
            yield f"{one.run.name}: {one.reason}, so that it has no standard error."
        elif estimate.error is None:
            yield (
                f"{one.run.name}: {one.benchmark.headline} has no standard error: "
                + ("one picture shows no spread." if estimate.clusters == 1 else "all answers are worth the same.")
            )
        elif not any(map(one.benchmark.cluster, (mark.item for mark in one.run.marks))):
            yield (
                f"{one.run.name}: its answers name no picture, so that every question counts for itself; where several are "
                "about one picture, the errors are larger than they look here."
            )
        elif estimate.naive is None:
            yield (
                f"{one.run.name}: {one.benchmark.headline} counts questions together that belong together; a naive error, of "
                "every question for itself, has no meaning there."
            )


def _otherwise(comparisons: list[Comparison]) -> Iterator[str]:
    for one in comparisons:
        for name, first, other in one.differs:
            yield f"{one.base.name} and {one.run.name} differ in {name}: {_told(first)} and {_told(other)}."


def _row(name: str, cells: list[str]) -> str:
    return f"<tr><th scope='row'>{text(name)}</th>{''.join(f'<td>{text(cell)}</td>' for cell in cells)}</tr>"


def _error(error: float | None, scale: float) -> str:
    return MISSING if error is None else f"± {figure(error, scale)}"


def _interval(estimate: Estimate, scale: float) -> str:
    if estimate.interval is None:
        return MISSING
    low, high = estimate.interval
    return f"{figure(low, scale)} … {figure(high, scale)}"


def _told(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return " ".join(value)
    return json.dumps(value, ensure_ascii=False)


def _cut(words: str) -> str:
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
