"""``pargo data``: what training data are made of."""

from __future__ import annotations

from pathlib import Path

from pargo_cli.data_sets import DATA_SETS
from pargo_cli.engine_options import add_engine_options
from pargo_cli.values import at_least_zero, positive


def add_parser(commands) -> None:
    """Add the command with its actions."""
    data = commands.add_parser("data", help="prepare, convert, mix and describe training data")
    actions = data.add_subparsers(metavar="action", dest="action", required=True)
    for add in (_list, _prepare, _convert):
        add(actions)


def _list(actions) -> None:
    listed = actions.add_parser("list", help="data sets that can be prepared: what each needs, its licence, its size")
    listed.add_argument(
        "names", nargs="*", choices=(*DATA_SETS, []), metavar="NAME", help="these alone, with all that is needed"
    )
    listed.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    listed.set_defaults(module="pargo_mllm.commands.data.listing")


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
        "--src", type=Path, required=True, metavar="DIR", help="the folder of official files; nothing in it is changed"
    )
    prepare.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder that is absent, empty, or half made")
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
    convert.add_argument("file", type=Path, metavar="FILE", help="a JSON list, or JSON Lines (.jsonl)")
    convert.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the list, .json or .jsonl, which must not be there yet"
    )
    convert.add_argument(
        "--image-root",
        type=Path,
        metavar="DIR",
        help="the folder that pictures are named from (default: images/ beside FILE, or beside it)",
    )
    convert.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    convert.set_defaults(module="pargo_mllm.commands.data.convert")
