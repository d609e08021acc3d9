"""The card as one page of HTML: its pictures are in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pargo_mllm.reports.page import definitions, picture, table, text, write_page
from pargo_mllm.validation.card import rows
from pargo_mllm.validation.card.facts import Shown
from pargo_mllm.validation.card.paper import NOTE
from pargo_mllm.validation.card.run import Card
from pargo_mllm.validation.card.words import METHOD
from pargo_mllm.validation.thumbnails import thumbnail

# bytes of all samples' pictures
ROOM = 4_000_000
_CATEGORIES = 80


def write_card_page(card: Card, drawings: Sequence[Path], file: Path) -> Path:
    """Write the page.

    Args:
        drawings: of lengths, shown in it.
    """
    facts = card.facts
    parts = [f"<h1>{text(card.about.title)}</h1>", f"<p class='lead'>{text(summary(card))}</p>", definitions(_origin(card))]
    parts += ["<h2>Beside the sets of the paper</h2>", _table(*rows.table_1(card)), f"<p>{text(NOTE)}</p>"]
    parts += ["<h2>Lengths of answers</h2>", *(picture(one, f"Histogram: {one.stem} of answers") for one in drawings)]
    parts += [_table(*rows.lengths(card))]
    parts += ["<h2>Answers and pictures of a sample</h2>", _table(*rows.counts(card))]
    if card.pictures:
        parts += ["<h2>Pictures</h2>", _table(*rows.pictures(facts))]
    parts += ["<h2>What answers speak of</h2>", f"<p>{text(METHOD)}{text(_missed(card))}</p>"]
    for name, tops in zip(("words", "pairs of words", "things named"), facts.spoken.all(), strict=True):
        header, told = rows.spoken(tops, facts.samples, name)
        if told:
            parts.append(_table(header, told))
    if card.categories:
        seen: rows.Rows = [(name, f"{photographs:,}", f"{objects:,}") for name, photographs, objects in card.categories]
        parts += ["<h2>Annotated objects</h2>", _table(("category", "photographs", "objects"), seen[:_CATEGORIES])]
    parts += ["<h2>Samples</h2>", "<p>Chosen by a hash, whatever they show.</p>", _samples(facts.chosen)]
    return write_page(file, f"{card.about.title}: data card", parts)


def summary(card: Card) -> str:
    """A line on all of it."""
    facts = card.facts
    said = f"{facts.samples:,} samples with {facts.answers:,} answers, {card.mean_characters:.1f} characters on average"
    if card.pictures:
        said += f"; {card.files:,} pictures" + (f", shown {card.pictures:,} times" if card.pictures != card.files else "")
    if facts.formats["unreadable"]:
        said += f", of which {facts.formats['unreadable']:,} cannot be read"
    left = sum(facts.left.values())
    return said + (f"; {left:,} entries that training leaves out are not counted." if left else ".")


def _origin(card: Card) -> dict[str, str]:
    about = card.about
    said = {
        "licence": about.licence or "not said",
        "source": about.source or "not said",
        "kind": about.kind,
        "language": about.language,
        "left out by training": _reasons(sorted(card.facts.left.items())),
        "left out when it was prepared": _reasons(about.skipped),
    }
    return {name: value for name, value in said.items() if value}


def _reasons(counts) -> str:
    return "; ".join(f"{count:,} {reason}" for reason, count in counts)


def _missed(card: Card) -> str:
    missed = max(tops.missed for tops in card.facts.spoken.all())
    return f" Rare words were dropped on the way: each count may be too low by {missed:,} at most." if missed else ""


def _table(header: Sequence[str], told: rows.Rows) -> str:
    lines = []
    for row in told:
        cells = "".join(f"<td>{text(cell)}</td>" for cell in row[1:])
        lines.append(f"<tr><th scope='row'>{text(row[0])}</th>{cells}</tr>")
    return table(header, lines)


def _samples(chosen: Sequence[Shown]) -> str:
    cards, used = [], 0
    for one in chosen:
        seen = ""
        for place in one.pictures:
            content = thumbnail(place)
            if content is not None and used + len(content) <= ROOM:
                used += len(content)
                seen += picture(content, one.where)
        said = "".join(f"<dt>{who}</dt><dd>{text(what)}</dd>" for who, what in one.turns)
        more = f"<p>… and {one.more:,} turns more</p>" if one.more else ""
        cards.append(f"<div class='card'>{seen}<p>{text(one.where)}</p><dl>{said}</dl>{more}</div>")
    return f"<div class='cards'>{''.join(cards)}</div>"
