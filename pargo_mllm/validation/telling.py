"""A report for people: lines, and a page with pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pargo_mllm.data.corpus import shown
from pargo_mllm.reports.page import definitions, picture, table, text, write_page
from pargo_mllm.validation.findings import KINDS, NOTE, SEVERITIES, Finding
from pargo_mllm.validation.run import Report
from pargo_mllm.validation.thumbnails import thumbnail

_FIGURES = ("data", "samples", "mean characters of an answer")
_ADVICE = {
    "error": "errors: the record is skipped, or teaches something wrong",
    "warning": "warnings: probably not what was meant",
    "note": "notes",
}


def lines(report: Report) -> str:
    """What a person reads in a terminal: counts, the first places, what to do."""
    said = [f"{shown(report.data)}: {_summary(report)}"]
    if not report.complete:
        said.append("not all of it could be looked at: see below")
    for severity in SEVERITIES:
        kinds = [kind for kind in KINDS if KINDS[kind].severity == severity and report.counts[kind]]
        if kinds:
            said += ["", _ADVICE[severity]]
        for kind in kinds:
            said.append(f"  {report.counts[kind]:,} {KINDS[kind].what}" + (f": {KINDS[kind].do}" if KINDS[kind].do else ""))
            # of notes one
            said += [f"      {_one_line(one)}" for one in report.examples[kind][: 1 if severity == NOTE else None]]
    if not report.counts:
        said.append("nothing was found")
    return "\n".join(said)


def page(reports: Sequence[Report], file: Path) -> None:
    """Write the page: the sets in a table, and of each its counts and three examples of each kind with their pictures."""
    parts = ["<h1>Validation of training data</h1>", table(_FIGURES, map(_figures, reports))]
    for report in reports:
        parts += _of_report(report)
    write_page(file, "Validation of training data", parts)


def _of_report(report: Report) -> list[str]:
    parts = [f"<h2>{text(report.data)}</h2>", f"<p class='lead'>{text(_summary(report))}</p>"]
    rows = [
        f"<tr><th scope='row'>{text(KINDS[kind].what)}</th><td>{text(KINDS[kind].severity)}</td>"
        f"<td>{report.counts[kind]:,}</td></tr>"
        for severity in SEVERITIES
        for kind in KINDS
        if KINDS[kind].severity == severity and report.counts[kind]
    ]
    parts.append(table(("", "severity", "findings"), rows) if rows else "<p>Nothing.</p>")
    for severity in SEVERITIES:
        for kind in KINDS:
            if KINDS[kind].severity == severity and report.counts[kind]:
                cards = "".join(_card(one) for one in report.examples[kind])
                do = f"<p>{text(KINDS[kind].do)}</p>" if KINDS[kind].do else ""
                parts.append(f"<h3>{text(KINDS[kind].what)} ({report.counts[kind]:,})</h3>{do}<div class='cards'>{cards}</div>")
    return parts


def _summary(report: Report) -> str:
    said = f"of {report.samples:,} samples training reads {report.usable:,}, with {report.pictures:,} pictures"
    if report.mean_characters is not None:
        said += f"; {report.mean_characters:.1f} characters an answer on average"
    if report.tokens is not None and report.tokens[0]:
        said += f"; {report.tokens[1] / report.tokens[0]:,.1f} tokens on average, {report.tokens[2]:,} at most"
    return said


def _figures(report: Report) -> str:
    mean = "" if report.mean_characters is None else f"{report.mean_characters:.1f}"
    return f"<tr><th scope='row'>{text(report.data)}</th><td>{report.usable:,}</td><td>{mean}</td></tr>"


def _one_line(finding: Finding) -> str:
    where = " ".join(finding.where().split())
    count = f" ({finding.count:,})" if finding.count > 1 else ""
    return shown(f"{where}: {finding.detail}{count}", 300)


def _card(finding: Finding) -> str:
    entries = {key: value for key, value in finding.told().items() if key not in ("kind", "severity", "count") or value != 1}
    entries = {key: value for key, value in entries.items() if key not in ("kind", "severity")}
    small = None if finding.picture is None else thumbnail(finding.picture)
    seen = "" if small is None else picture(small, finding.id or "")
    return f"<div class='card'>{seen}{definitions(entries)}</div>"
