"""The report of a demonstration: one self-contained HTML file with its charts and pictures."""

from __future__ import annotations

import base64
import os
from html import escape
from pathlib import Path
from typing import Any

from pargo_mllm.files import write_whole
from pargo_mllm.pictures.accuracy import STAGES, baseline_name, draw_accuracy, draw_loss, stages_of

REPORT, ACCURACY, LOSS = "report.html", "accuracy.png", "loss.png"
MISSING = "–"

_STYLE = """
:root { color-scheme: light; --ink: #1d2433; --faint: #667085; --rule: #d9dee7; --accent: #1f4e8c; }
body { margin: 0; background: #f6f7f9; color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; background: #fff; min-height: 100vh; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .7rem; padding-top: 1.2rem; border-top: 1px solid var(--rule); }
p.lead { color: var(--faint); margin: 0 0 1.6rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .95rem; }
th, td { text-align: right; padding: .42rem .7rem; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; }
thead th { color: var(--faint); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; }
tr.baseline th, tr.baseline td { color: var(--faint); font-weight: 400; }
tr.first th, tr.first td { border-top: 2px solid var(--rule); }
td.best { font-weight: 700; color: var(--accent); }
.scroll { overflow-x: auto; }
img { width: 100%; height: auto; border: 1px solid var(--rule); border-radius: 6px; margin: .4rem 0; }
li { margin: .3rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 0; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
"""


def write_report(folder: str | os.PathLike, results: dict[str, Any]) -> Path:
    """Write ``report.html``, with ``accuracy.png`` and ``loss.png`` beside it, into ``folder``.

    Args:
        results: ``data`` (``name``, ``train``, ``test``, ``questions``), ``seed``, ``projectors`` (each ``name``, ``tokens``,
            ``loss`` and, for ``before``, ``stage1``, ``stage2``, a ``mean`` and ``kinds``), ``baselines`` (name: mean and
            kinds), ``seconds`` (phase: seconds), ``device``, ``versions``, ``attention`` (names of PNG files in the folder),
            ``shows`` and ``limits`` (sentences). Accuracies are shares in 0...1.

    Returns:
        The path of the report. It shows its pictures wherever it is moved.

    Raises:
        ValueError: without projectors, or for the name of a picture outside the folder.
        FileNotFoundError: if a picture of ``attention`` is not there.
    """
    folder = Path(folder)
    if not results.get("projectors"):
        raise ValueError("results['projectors'] is empty; a report needs at least one trained projector.")
    pictures = [_picture_file(folder, name) for name in results.get("attention", [])]
    draw_accuracy(results, folder / ACCURACY)
    draw_loss(results, folder / LOSS)
    data = results["data"]
    parts = [
        "<h1>ParGo, trained from nothing</h1>",
        f"<p class='lead'>{_count(data['train'], 'training picture')}, {_count(data['test'], 'held-out picture')} with "
        f"{_count(data['questions'], 'question')} ({_text(data['name'])}) · seed {_text(results['seed'])} · "
        f"{_text(results['device'])}</p>",
        "<p>Shares of questions about held-out pictures that are answered word for word, greedily decoded; the mean counts "
        "every kind of question the same.</p>",
        _table_by_stage(results),
        _image(folder / ACCURACY, "bar chart of the accuracies"),
        _list("What it shows", results.get("shows", [])),
        _list("What it does not show", results.get("limits", [])),
        "<h2>By kind of question</h2>",
        _table_by_kind(results),
    ]
    if pictures:
        parts.append("<h2>What the tokens look at</h2>")
        parts += [_image(file, f"attention of the projector's tokens: {file.stem}") for file in pictures]
    parts += [
        "<h2>Training loss</h2>",
        _image(folder / LOSS, "training loss by step"),
        "<h2>Time</h2>",
        # so the rows have no sum
        "<p>Phases may run side by side; one that was found finished shows what it took when it ran.</p>",
        _table_of_seconds(results["seconds"]),
        "<h2>Made with</h2>",
        _definitions({"device": results["device"], "seed": results["seed"], **results.get("versions", {})}),
    ]
    return _write(folder / REPORT, parts)


def _table_by_stage(results: dict[str, Any]) -> str:
    stages = stages_of(results["projectors"])
    best = {stage: max(p[stage]["mean"] for p in results["projectors"] if stage in p) for stage in stages}
    rows = []
    for projector in results["projectors"]:
        cells = [f"<td>{_text(projector['tokens'])}</td>"]
        for stage in stages:
            mean = projector[stage]["mean"] if stage in projector else None
            cells.append(f"<td{' class=best' if mean == best[stage] else ''}>{_percent(mean)}</td>")
        rows.append(f"<tr><th scope='row'>{_text(projector['name'])}</th>{''.join(cells)}</tr>")
    for index, (key, score) in enumerate(results.get("baselines", {}).items()):
        empty = f"<td></td>{'<td></td>' * (len(stages) - 1)}"
        style = "baseline first" if index == 0 else "baseline"
        name = _text(baseline_name(key))
        rows.append(f"<tr class='{style}'><th scope='row'>{name}</th>{empty}<td>{_percent(score['mean'])}</td></tr>")
    return _table(["projector", "tokens", *stages.values()], rows)


def _table_by_kind(results: dict[str, Any]) -> str:
    columns: list[tuple[str, dict[str, float]]] = []
    for projector in results["projectors"]:
        for stage in stages_of([projector]):
            columns.append((f"{projector['name']}, {STAGES[stage].split(' (')[0]}", projector[stage]["kinds"]))
    columns += [(baseline_name(key), score.get("kinds", {})) for key, score in results.get("baselines", {}).items()]
    kinds = dict.fromkeys(kind for _, scores in columns for kind in scores)
    rows = [
        f"<tr><th scope='row'>{_text(name)}</th>{''.join(f'<td>{_percent(scores.get(kind))}</td>' for kind in kinds)}</tr>"
        for name, scores in columns
    ]
    return _table(["", *kinds], rows)


def _table_of_seconds(seconds: dict[str, float]) -> str:
    rows = [f"<tr><th scope='row'>{_text(phase)}</th><td>{spent:,.1f} s</td></tr>" for phase, spent in seconds.items()]
    return _table(["phase", "time"], rows)


def _table(header: list[str], rows: list[str]) -> str:
    head = "".join(f"<th scope='col'>{_text(name)}</th>" for name in header)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def _list(title: str, sentences: list[str]) -> str:
    if not sentences:
        return ""
    return f"<h2>{title}</h2><ul>{''.join(f'<li>{_text(sentence)}</li>' for sentence in sentences)}</ul>"


def _definitions(entries: dict[str, Any]) -> str:
    return f"<dl>{''.join(f'<dt>{_text(name)}</dt><dd>{_text(value)}</dd>' for name, value in entries.items())}</dl>"


def _image(file: Path, description: str) -> str:
    content = base64.b64encode(file.read_bytes()).decode("ascii")
    return f"<img alt='{_text(description)}' src='data:image/png;base64,{content}'>"


def _picture_file(folder: Path, name: str) -> Path:
    file = folder / name
    if file.resolve().parent != folder.resolve():
        raise ValueError(f"attention names {name!r}; it must be a file directly in {folder}.")
    if not file.is_file():
        raise FileNotFoundError(f"attention names {name!r}, which is not in {folder}; draw it first.")
    return file


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.1f} %"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _text(value: Any) -> str:
    return escape(str(value), quote=True)


def _write(path: Path, parts: list[str]) -> Path:
    page = (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>ParGo: report</title><style>{_STYLE}</style></head><body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )
    write_whole(path, page)
    return path
