"""The report of a demonstration: one self-contained HTML file with its charts and pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pargo_mllm.pictures.accuracy import STAGES, baseline_name, draw_accuracy, draw_loss, stages_of
from pargo_mllm.reports.page import bullets, definitions, picture, table, text, write_page

REPORT, ACCURACY, LOSS = "report.html", "accuracy.png", "loss.png"
MISSING = "–"


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
        f"{_count(data['questions'], 'question')} ({text(data['name'])}) · seed {text(results['seed'])} · "
        f"{text(results['device'])}</p>",
        "<p>Shares of questions about held-out pictures that are answered word for word, greedily decoded; the mean counts "
        "every kind of question the same.</p>",
        _table_by_stage(results),
        picture(folder / ACCURACY, "bar chart of the accuracies"),
        bullets("What it shows", results.get("shows", [])),
        bullets("What it does not show", results.get("limits", [])),
        "<h2>By kind of question</h2>",
        _table_by_kind(results),
    ]
    if pictures:
        parts.append("<h2>What the tokens look at</h2>")
        parts += [picture(file, f"attention of the projector's tokens: {file.stem}") for file in pictures]
    parts += [
        "<h2>Training loss</h2>",
        picture(folder / LOSS, "training loss by step"),
        "<h2>Time</h2>",
        # so the rows have no sum
        "<p>Phases may run side by side; one that was found finished shows what it took when it ran.</p>",
        _table_of_seconds(results["seconds"]),
        "<h2>Made with</h2>",
        definitions({"device": results["device"], "seed": results["seed"], **results.get("versions", {})}),
    ]
    return write_page(folder / REPORT, "ParGo: report", parts)


def _table_by_stage(results: dict[str, Any]) -> str:
    stages = stages_of(results["projectors"])
    best = {stage: max(p[stage]["mean"] for p in results["projectors"] if stage in p) for stage in stages}
    rows = []
    for projector in results["projectors"]:
        cells = [f"<td>{text(projector['tokens'])}</td>"]
        for stage in stages:
            mean = projector[stage]["mean"] if stage in projector else None
            cells.append(f"<td{' class=best' if mean == best[stage] else ''}>{_percent(mean)}</td>")
        rows.append(f"<tr><th scope='row'>{text(projector['name'])}</th>{''.join(cells)}</tr>")
    for index, (key, score) in enumerate(results.get("baselines", {}).items()):
        empty = f"<td></td>{'<td></td>' * (len(stages) - 1)}"
        style = "baseline first" if index == 0 else "baseline"
        name = text(baseline_name(key))
        rows.append(f"<tr class='{style}'><th scope='row'>{name}</th>{empty}<td>{_percent(score['mean'])}</td></tr>")
    return table(["projector", "tokens", *stages.values()], rows)


def _table_by_kind(results: dict[str, Any]) -> str:
    columns: list[tuple[str, dict[str, float]]] = []
    for projector in results["projectors"]:
        for stage in stages_of([projector]):
            columns.append((f"{projector['name']}, {STAGES[stage].split(' (')[0]}", projector[stage]["kinds"]))
    columns += [(baseline_name(key), score.get("kinds", {})) for key, score in results.get("baselines", {}).items()]
    kinds = dict.fromkeys(kind for _, scores in columns for kind in scores)
    rows = [
        f"<tr><th scope='row'>{text(name)}</th>{''.join(f'<td>{_percent(scores.get(kind))}</td>' for kind in kinds)}</tr>"
        for name, scores in columns
    ]
    return table(["", *kinds], rows)


def _table_of_seconds(seconds: dict[str, float]) -> str:
    rows = [f"<tr><th scope='row'>{text(phase)}</th><td>{spent:,.1f} s</td></tr>" for phase, spent in seconds.items()]
    return table(["phase", "time"], rows)


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
