"""``pargo data card``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pargo_mllm.jobs import engine_of
from pargo_mllm.reports.page import check_page
from pargo_mllm.validation.card.about import about_of
from pargo_mllm.validation.card.run import MARK, CardError, make_card
from pargo_mllm.validation.division import part_of

README, PAGE = "README.md", "card.html"


def run(options: argparse.Namespace) -> None:
    """Read the set, write the card, and say what it says in short."""
    try:
        # with what the command cannot do without
        from pargo_mllm.pictures.lengths import draw_lengths
        from pargo_mllm.validation.card.page import summary, write_card_page
        from pargo_mllm.validation.card.readme import write_readme
    except ModuleNotFoundError as error:
        raise CardError(f"{error.name} is not installed: pip install 'pargo[demo]'") from error
    part = part_of(options.data, options.image_root)
    out = options.out or Path(f"{part.path.resolve()}-card")
    _check(out)
    check_page(out / PAGE)
    about = about_of(part, options.licence, options.source, options.title, options.language)
    card = make_card(part, about, engine_of(options.engine, options.processes), options.seed, options.samples)
    try:
        out.mkdir(parents=True, exist_ok=True)
        drawings = [
            draw_lengths(card.facts.characters, card.mean_characters, "characters", out / "characters.png"),
            draw_lengths(card.facts.words, card.mean_words, "words", out / "words.png"),
        ]
        write_card_page(card, drawings, out / PAGE)
        write_readme(card, drawings, out / README)
    except OSError as error:
        raise CardError(f"--out {out} cannot be written: {error.strerror or error}.") from error
    told = {**card.told(), "page": str(out / PAGE), "readme": str(out / README)}
    print(json.dumps(told) if options.json else f"{about.title}: {summary(card)}\n{out / PAGE}\n{out / README}")


def _check(out: Path) -> None:
    """Refuse to write over what is no card."""
    readme = out / README
    try:
        if not out.exists() or not any(out.iterdir()):
            return
        if readme.is_file() and MARK in readme.read_bytes()[: 2**16].decode("utf-8", "replace"):
            return
    except OSError as error:
        raise CardError(f"--out {out} cannot be written: {error.strerror or error}.") from error
    raise CardError(f"--out {out} holds something else; give an absent or empty folder, or one with a card.")
