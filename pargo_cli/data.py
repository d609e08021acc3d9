"""``pargo data``: what training data are made of."""

from __future__ import annotations

import argparse
import re

from pargo_cli.data_sets import DATA_SETS
from pargo_cli.engine_options import add_engine_options
from pargo_cli.values import at_least_zero, no_empty, path, positive, up_to_one


def add_parser(commands) -> None:
    """Add the command with its actions."""
    data = commands.add_parser("data", help="prepare, convert, mix and describe training data")
    actions = data.add_subparsers(metavar="action", dest="action", required=True)
    for add in (_list, _prepare, _mixture, _convert, _patches, _card):
        add(actions)


def _list(actions) -> None:
    listed = actions.add_parser("list", help="data sets that can be prepared: what each needs, its licence, its size")
    listed.add_argument(
        "names", nargs="*", choices=(*DATA_SETS, []), metavar="NAME", help="these alone, with all that is needed"
    )
    listed.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    listed.set_defaults(module="pargo_mllm.commands.data.listing")


def _mixture(actions) -> None:
    mixture = actions.add_parser(
        "mixture",
        allow_abbrev=False,
        help="put prepared data together, each with how often it is drawn from",
        description="Write a file of parts that pargo train --data takes: folders that pargo data prepare made, each with how "
        "often it is drawn from. Paths in it lead from the folder that it lies in.",
    )
    mixture.add_argument("prepared", nargs="+", type=path, metavar="PREPARED", help="folders that pargo data prepare made")
    mixture.add_argument("--out", type=path, required=True, metavar="FILE.yaml", help="a file that is not there")
    mixture.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="NAME=W",
        help="of a set, or of a folder as it was given, in place of its own (pargo data list says which that is)",
    )
    mixture.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    mixture.set_defaults(module="pargo_mllm.commands.data.mixture")


def _prepare(actions) -> None:
    prepare = actions.add_parser(
        "prepare",
        allow_abbrev=False,
        help="make training data of a data set's official files",
        description="Make training data of a data set's official files: a LLaVA list with pictures beside it, or webdataset "
        "shards. Run the same command again to go on with what was interrupted.",
    )
    prepare.add_argument("name", choices=tuple(DATA_SETS), metavar="NAME", help=f"one of {', '.join(DATA_SETS)}")
    prepare.add_argument(
        "--src", type=path, required=True, metavar="DIR", help="the folder of official files; nothing in it is changed"
    )
    prepare.add_argument("--out", type=path, required=True, metavar="DIR", help="a folder that is absent, empty, or half made")
    prepare.add_argument("--split", metavar="NAME", help="a part of the set (default: the one that is trained on)")
    prepare.add_argument(
        "--seed", type=at_least_zero, default=0, metavar="N", help="of what a template leaves to chance (default: 0)"
    )
    prepare.add_argument(
        "--frame",
        choices=("picture", "pixels", "padded", "thousand"),
        default="picture",
        help="what the numbers of boxes in texts count (default: picture, 0 to 1 of its width and height)",
    )
    prepare.add_argument("--shards", action="store_true", help="write webdataset shards")
    prepare.add_argument(
        "--per-shard", type=positive, default=10_000, metavar="N", help="entries of a shard (default: %(default)s)"
    )
    prepare.add_argument(
        "--copy", action="store_true", help="copy pictures (default: hard links, where the disk can, which take no room)"
    )
    prepare.add_argument(
        "--fetch",
        action="store_true",
        help="download pictures of which the set has only addresses (public ones, over http or https)",
    )
    prepare.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    add_engine_options(prepare)
    prepare.set_defaults(module="pargo_mllm.commands.data.prepare")


def _convert(actions) -> None:
    convert = actions.add_parser(
        "convert",
        allow_abbrev=False,
        help="make a LLaVA list of records as other trainers write them",
        description="Make a LLaVA list of records as other trainers write them. Training reads these too; a list is what other "
        "programs read, and says which records are left out, and why.",
    )
    convert.add_argument("file", type=path, metavar="FILE", help="a JSON list, or JSON Lines (.jsonl)")
    convert.add_argument(
        "--out", type=path, required=True, metavar="FILE", help="the list, .json or .jsonl, which must not be there yet"
    )
    convert.add_argument(
        "--image-root",
        type=path,
        metavar="DIR",
        help="the folder that pictures are named from (default: images/ beside FILE, or beside it)",
    )
    convert.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    convert.set_defaults(module="pargo_mllm.commands.data.convert")


def _patches(actions) -> None:
    patches = actions.add_parser(
        "patches",
        allow_abbrev=False,
        help="say what is where in pictures: labels of patches, from boxes and masks with names",
        description="Write a file of what is where in pictures, a line of JSON a picture, from what annotators or a detector "
        "say of them: labels of patches, for training with patch_weight and for pargo align. Or check such a file.",
    )
    patches.add_argument(
        "data",
        type=no_empty,
        metavar="DATA",
        help="where the pictures are: a LLaVA list, a prepared or COCO-style folder, shards, or a folder of pictures",
    )
    said = patches.add_mutually_exclusive_group(required=True)
    said.add_argument("--instances", type=path, metavar="FILE", help="COCO's instances.json: masks, or boxes where it has none")
    said.add_argument(
        "--regions",
        type=path,
        metavar="FILE",
        help="Visual Genome's region_descriptions.json: the content words of each phrase",
    )
    said.add_argument(
        "--detections",
        type=path,
        metavar="FILE",
        help="what a detector found: COCO's results, or {picture: {size, detections: [{label, box, frame, score}]}}",
    )
    said.add_argument("--check", type=path, metavar="FILE", help="a file that was written so, or by hand; nothing is written")
    patches.add_argument("--out", type=path, metavar="FILE.jsonl", help="the file, which must not be there yet")
    patches.add_argument(
        "--categories",
        type=path,
        metavar="FILE",
        help="what COCO's results call their categories: an instances.json, [{id, name}] or {id: name}",
    )
    patches.add_argument(
        "--min-score", type=up_to_one, metavar="S", help="leave out detections that are less sure, 0 to 1 (default: 0)"
    )
    patches.add_argument(
        "--synonyms", type=path, metavar="FILE", help='other names of things, as JSON: {"bicycle": ["bike", "cycle"]}'
    )
    patches.add_argument("--image-root", type=path, metavar="DIR", help="where a LLaVA list has its pictures, as in training")
    patches.add_argument(
        "--model", type=path, metavar="DIR", help="name the labels that this model's tokenizer has no tokens for"
    )
    patches.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    patches.set_defaults(module="pargo_mllm.commands.data.patches")


def _card(actions) -> None:
    card = actions.add_parser(
        "card",
        allow_abbrev=False,
        help="tell what training data hold: a page with samples, and a card as the hub shows it",
        description="Tell what training data hold: the paper's Table 1 with them in it, lengths, pictures, what answers speak "
        "of and samples, as card.html and as README.md in the hub's form.",
    )
    card.add_argument(
        "data", type=no_empty, metavar="DATA", help="a LLaVA list, a prepared folder, shards or a COCO-style folder"
    )
    card.add_argument("--out", type=path, metavar="DIR", help="where the card goes (default: DATA-card, beside the data)")
    card.add_argument("--image-root", type=path, metavar="DIR", help="where a LLaVA list has its pictures, as in training")
    card.add_argument("--title", metavar="TEXT", help="its name (default: what its preparation wrote, or the file's)")
    card.add_argument(
        "--licence", metavar="TEXT", help="as the hub spells it (cc-by-4.0), or in words (default: what its preparation wrote)"
    )
    card.add_argument("--source", metavar="TEXT", help="where it comes from (default: what its preparation wrote)")
    card.add_argument("--language", type=_language, metavar="CODE", help="of its answers, as the hub spells it: en")
    card.add_argument("--samples", type=at_least_zero, default=24, metavar="N", help="samples to show (default: %(default)s)")
    card.add_argument("--seed", type=at_least_zero, default=0, metavar="N", help="of the samples that are shown (default: 0)")
    card.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    add_engine_options(card)
    card.set_defaults(module="pargo_mllm.commands.data.card")


def _language(text: str) -> str:
    if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*", text):
        raise argparse.ArgumentTypeError(f"{text} must be a code like en, de or zh-Hans")
    return text
