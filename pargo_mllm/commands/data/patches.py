"""``pargo data patches``."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pargo_mllm.alignment.words import word_ids
from pargo_mllm.data.corpus import CorpusError, shown
from pargo_mllm.data.preparation.patches.checking import check_patches
from pargo_mllm.data.preparation.patches.coco import instances
from pargo_mllm.data.preparation.patches.detector import detections
from pargo_mllm.data.preparation.patches.job import label_patches, read_synonyms
from pargo_mllm.data.preparation.patches.pictures import pictures_of
from pargo_mllm.data.preparation.patches.visual_genome import regions
from pargo_mllm.loading import open_config, open_processor

# names that are told, of those that a tokenizer has no tokens for
_TOLD = 20
ERRORS = 1


def run(options: argparse.Namespace) -> int:
    """Write the file, or check one, and say what became of every region. A check that finds anything gives the status 1."""
    _refuse(options)
    pictures = pictures_of(options.data, options.image_root)
    tokenizer = None if options.model is None else open_processor(options.model, open_config(options.model)).tokenizer
    if options.check is not None:
        checked = check_patches(options.check, pictures)
        told_of = checked.regions
        about = _about(
            options.check, checked.lines.used, told_of.entries, told_of.used, told_of.skipped, checked.names, tokenizer
        )
        lines = checked.lines
        about["lines"] = {"entries": lines.entries, "used": lines.used, "skipped": dict(sorted(lines.skipped.items()))}
    else:
        synonyms = read_synonyms(options.synonyms) if options.synonyms is not None else {}
        if options.instances is not None:
            told = instances(options.instances)
        elif options.regions is not None:
            told = regions(options.regions)
        else:
            told = detections(options.detections, options.categories)
        done = label_patches(
            told,
            pictures,
            options.out,
            synonyms=synonyms,
            min_score=options.min_score or 0.0,
            cut=options.detections is not None,
        )
        about = _about(options.out, done.pictures, done.entries, done.used, done.skipped, done.names, tokenizer)
    print(json.dumps(about) if options.json else _told(about))
    if options.check is None:
        return 0
    return ERRORS if about["skipped"] or about["lines"]["skipped"] or about.get("without_tokens") else 0


def _refuse(options: argparse.Namespace) -> None:
    if options.check is None and options.out is None:
        raise CorpusError("--out FILE.jsonl says where the file goes; give one.")
    if options.out is not None and str(options.out) == "-":
        raise CorpusError("--out - is not standard output: the file is written beside its place and moved there; give a name.")
    only: Iterable[tuple[str, Any, bool]] = (
        ("--out", options.out, options.check is not None),
        ("--synonyms", options.synonyms, options.check is not None),
        ("--min-score", options.min_score, options.detections is None),
        ("--categories", options.categories, options.detections is None),
    )
    for name, value, is_out_of_place in only:
        if value is not None and is_out_of_place:
            where = "is for --detections alone" if name in ("--min-score", "--categories") else "writes, and --check does not"
            raise CorpusError(f"{name} {where}: leave it out.")


def _about(
    file: Path, pictures: int, entries: int, used: int, skipped: Counter[str], names: Counter[str], tokenizer: Any
) -> dict[str, Any]:
    about = {
        "file": str(file),
        "pictures": pictures,
        "entries": entries,
        "used": used,
        "skipped": dict(sorted(skipped.items())),
        "names": dict(names.most_common()),
    }
    if tokenizer is not None:
        about["without_tokens"] = [name for name in names if not word_ids(tokenizer, name)]
    return about


def _told(about: dict[str, Any]) -> str:
    lines = [
        f"{about['file']}: of {about['entries']:,} regions {about['used']:,} in {about['pictures']:,} pictures, "
        f"called {len(about['names']):,} names"
    ]
    lines += [f"skipped {count:,}: {reason}" for reason, count in about["skipped"].items()]
    if "lines" in about:
        told = about["lines"]
        lines.append(f"of {told['entries']:,} lines {told['used']:,} used")
        lines += [f"skipped {count:,}: {reason}" for reason, count in told["skipped"].items()]
    lacking = about.get("without_tokens", [])
    if lacking:
        some = ", ".join(shown(name, 40) for name in lacking[:_TOLD])
        lines.append(f"the tokenizer has no tokens for {len(lacking):,} names: {some}{', …' * (len(lacking) > _TOLD)}")
    return "\n".join(lines)
