"""The card as the hub shows it: README.md with its front matter in YAML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pargo_mllm.data.corpus import shown
from pargo_mllm.files import write_whole
from pargo_mllm.validation.card import rows
from pargo_mllm.validation.card.page import summary
from pargo_mllm.validation.card.paper import NOTE
from pargo_mllm.validation.card.run import MARK, Card
from pargo_mllm.validation.card.words import METHOD

# as the hub spells them; any other text is of a licence that it does not know
_LICENCES = (
    "afl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 "
    "cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 "
    "cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 gfdl gpl "
    "gpl-2.0 gpl-3.0 lgpl lgpl-3.0 llama2 llama3 mit mpl-2.0 odbl odc-by openrail pddl unknown unlicense wtfpl"
)
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
_SHORT = 15


def write_readme(card: Card, drawings: Sequence[Path], file: Path) -> None:
    """Write :file:`README.md`; ``drawings`` lie beside it."""
    about, facts = card.about, card.facts
    front = yaml.safe_dump(front_matter(card), sort_keys=False, allow_unicode=True, width=1000)
    parts = [f"---\n{front}---", MARK, f"# {_text(about.title)}", _text(summary(card))]
    parts += ["## Beside the sets of ParGo's paper", _table(*rows.table_1(card)), _text(NOTE)]
    parts += ["## Lengths of answers", *(f"![{one.stem} of answers]({one.name})" for one in drawings)]
    parts += [_table(*rows.lengths(card))]
    parts += ["## Answers and pictures of a sample", _table(*rows.counts(card))]
    if card.pictures:
        parts += ["## Pictures", _table(*rows.pictures(facts))]
    parts += ["## What answers speak of", _text(METHOD)]
    for name, tops in zip(("Words", "Pairs of words", "Things named"), facts.spoken.all(), strict=True):
        said = ", ".join(f"{_text(word)} ({count:,})" for word, count in tops.first(_SHORT, least=2))
        if said:
            parts.append(f"{name}, with the samples that hold them: {said}.")
    if card.categories:
        said = ", ".join(f"{_text(name)} ({count:,})" for name, count, _ in card.categories[:_SHORT])
        parts.append(f"Annotated objects, with the photographs that show them: {said}.")
    parts += ["## Source and licence", f"Source: {_text(about.source or 'not said')}."]
    parts.append(f"Licence: {_text(about.licence or 'not said')}.")
    write_whole(file, "\n\n".join(parts) + "\n")


def front_matter(card: Card) -> dict[str, Any]:
    """What the hub finds a set by."""
    about, facts = card.about, card.facts
    told: dict[str, Any] = {"pretty_name": about.title}
    if about.licence is None:
        told["license"] = "unknown"
    elif about.licence.lower() in _LICENCES.split():
        told["license"] = about.licence.lower()
    else:
        # its text stands below
        told |= {"license": "other", "license_name": "see-below"}
    if about.language is not None:
        told["language"] = [about.language]
    if not card.pictures:
        task = "text-generation"
    elif card.is_captions:
        task = "image-to-text"
    else:
        task = "visual-question-answering"
    told["task_categories"] = [task]
    told["size_categories"] = [next((name for most, name in _SIZES if facts.samples < most), "1B<n<10B")]
    return told


def _table(header: Sequence[str], told: rows.Rows) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *told]
    return "\n".join(f"| {' | '.join(one if one.startswith('---') else _text(one) for one in line)} |" for line in lines)


def _text(value: str) -> str:
    """A text as text of Markdown, on one line, whatever it holds."""
    return _MARKUP.sub(r"\\\1", " ".join(shown(value, 4000).split()))
