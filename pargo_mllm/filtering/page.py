"""What was dropped, and what was nearly dropped, with its pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pargo_mllm.data.pictures import PictureError
from pargo_mllm.filtering.choosing import Choice
from pargo_mllm.filtering.discernment import Discernment
from pargo_mllm.filtering.records import Records
from pargo_mllm.filtering.scores import Scores, rows_of
from pargo_mllm.reports.page import definitions, picture, table, text, write_page

# of each model: pairs with the lowest scores, pairs just below the threshold, pairs just above it
SHOWN = 12
# pixels of a picture's longer side; sentences and characters of a card
_SIDE, _SENTENCES, _LONGEST = 360, 40, 400


def can_draw() -> bool:
    """Whether matplotlib, which draws histograms, is installed."""
    return find_spec("matplotlib") is not None


def draw_histogram(scores: Scores, by: str, threshold: float | None, file: Path) -> Path:
    """The scores of all records beside those of their texts with other pictures, and where pairs are dropped."""
    from pargo_mllm.pictures.style import ACCENT, FAINT, INK, SERIES, new_figure, save_figure

    own, other = (values[~np.isnan(values)] for values in (scores.numbers[by], scores.numbers[f"other_{by}"]))
    figure = new_figure(8, 3.6)
    axes = figure.add_subplot()
    edges = np.histogram_bin_edges(np.concatenate([own, other]) if len(own) else np.zeros(1), bins=60).tolist()
    axes.hist(other, edges, color=FAINT, alpha=0.5, label="their texts beside other pictures")
    axes.hist(own, edges, color=SERIES[0], alpha=0.75, label="pairs of the data")
    if threshold is not None and np.isfinite(threshold):
        axes.axvline(threshold, color=ACCENT, label=f"threshold: {scores.in_models_terms(threshold)}")
    axes.set_xlabel(f"{scores.about['identity']['measure']}, {by} over sentences", color=INK)
    axes.set_ylabel("records", color=INK)
    axes.legend(frameon=False)
    figure.tight_layout()
    return save_figure(figure, file)


def write_filter_page(
    file: Path,
    records: Records,
    scores: Mapping[str, Scores],
    discernments: Mapping[str, Discernment],
    choice: Choice | None,
    by: str,
    histograms: Mapping[str, Path],
    summary: Mapping[str, Any],
) -> Path:
    """Write it: figures, histograms, and pairs of each model around its threshold."""
    parts = [f"<h1>{text('Pairs of picture and text')}</h1>", definitions(summary)]
    rows = [
        f"<tr><th scope='row'>{text(name)}</th><td>{text(scored.about['source'])}</td>"
        f"<td>{text(_threshold(name, scored, choice))}</td><td>{int(scored.judged.sum()):,}</td>"
        f"<td>{int(scored.cut.sum()):,}</td><td>{text(_dropped(name, choice))}</td>"
        f"<td>{text(discernments[name].told())}</td></tr>"
        for name, scored in scores.items()
    ]
    names = ("model", "from", f"threshold ({by})", "judged", "with a sentence cut", "below", "can it judge?")
    parts.append(table(names, rows))
    with tempfile.TemporaryDirectory() as thumbnails:
        for name, scored in scores.items():
            parts.append(f"<h2>{text(name)}</h2>")
            if name in histograms:
                parts.append(picture(histograms[name], f"scores of {name}"))
            for title, numbers in _groups(name, scored, choice, by):
                if numbers:
                    cards = _cards(records, scored, numbers, by, Path(thumbnails))
                    parts.append(f"<h3>{text(title)}</h3><div class='cards'>{''.join(cards)}</div>")
        return write_page(file, "Pairs of picture and text", parts)


def _threshold(name: str, scored: Scores, choice: Choice | None) -> str:
    return "none" if choice is None else scored.in_models_terms(choice.thresholds[name])


def _dropped(name: str, choice: Choice | None) -> str:
    return "–" if choice is None else f"{int(choice.below[name].sum()):,}"


def _groups(name: str, scored: Scores, choice: Choice | None, by: str) -> list[tuple[str, list[int]]]:
    numbers = scored.numbers[by]
    order = [int(number) for number in np.argsort(numbers, kind="stable") if scored.judged[number]]
    if choice is None:
        return [("lowest scores", order[:SHOWN]), ("highest scores", order[::-1][:SHOWN])]
    below = int(choice.below[name].sum())
    lowest = order[:below][:SHOWN]
    near = order[max(len(lowest), below - SHOWN) : below]
    return [
        ("dropped: lowest scores", lowest),
        ("dropped: nearest to the threshold", near),
        ("just kept", order[below:][:SHOWN]),
    ]


def _cards(records: Records, scored: Scores, numbers: Sequence[int], by: str, folder: Path) -> list[str]:
    wanted = set(numbers)
    rows = {number: row for number, row in enumerate(rows_of(scored.file)) if number in wanted}
    return [_card(records, rows[number], number, by, scored, folder) for number in numbers]


def _card(records: Records, row: Mapping[str, Any], number: int, by: str, scored: Scores, folder: Path) -> str:
    record = records[number]
    drawn = ""
    try:
        if record.open is not None:
            shown = record.open()
            shown.thumbnail((_SIDE, _SIDE))
            shown.save(folder / "picture.jpg", quality=80)
            drawn = picture(folder / "picture.jpg", row["picture"])
    except PictureError as error:
        drawn = f"<p>{text(error)}</p>"
    told = row["sentences"]
    least = min(told, key=lambda sentence: sentence["score"])
    lines = []
    for sentence in told[:_SENTENCES] if least in told[:_SENTENCES] else [*told[: _SENTENCES - 1], least]:
        said = record.text[sentence["start"] : sentence["end"]]
        said = text(said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…")
        mark = f"<b>{said}</b>" if sentence is least else said
        lines.append(f"<li>{sentence['score']:.3f}{' (cut)' if sentence['cut'] else ''} {mark}</li>")
    rest = f"<p>and {len(told) - len(lines):,} sentences more</p>" if len(told) > len(lines) else ""
    head = definitions({"record": row["id"], "picture": row["picture"], by: scored.in_models_terms(row[by])})
    return f"<div class='card'>{drawn}{head}<ul>{''.join(lines)}</ul>{rest}</div>"
