"""``pargo caption``."""

from __future__ import annotations

import argparse

from pargo_cli.engine_options import add_engine_options
from pargo_cli.values import above_zero, path, positive


def add_parser(commands) -> None:
    """Add the command."""
    caption = commands.add_parser(
        "caption",
        allow_abbrev=False,
        help="describe pictures in detail, by an endpoint or by a model of one's own",
        description="Describe pictures in detail, as a whole and region by region, and write training data of them. What was "
        "answered is kept at once: the same command goes on where a run was interrupted, and asks nothing twice.",
    )
    caption.add_argument(
        "images",
        type=path,
        metavar="IMAGES",
        help="a folder with all below it, a list of names (.txt), a LLaVA list or prepared folder, or webdataset shards",
    )
    caption.add_argument("--out", type=path, required=True, metavar="DIR", help="a folder that is absent, empty, or half made")
    caption.add_argument("--image-root", type=path, metavar="DIR", help="where the names on a list lead from")
    caption.add_argument("--copy", action="store_true", help="copy pictures (default: hard links, where the disk can)")
    caption.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    _add_question(caption)
    _add_endpoint(caption)
    _add_limits(caption)
    _add_batches(caption)
    _add_model(caption)
    add_engine_options(caption)
    caption.set_defaults(module="pargo_mllm.commands.caption")


def _add_question(caption: argparse.ArgumentParser) -> None:
    group = caption.add_argument_group("what is asked")
    group.add_argument("--prompt-file", type=path, metavar="FILE", help="in place of the prompt that comes with pargo")
    group.add_argument(
        "--max-tokens", type=positive, default=1024, metavar="N", help="of a caption; a longer one is a failure (default: 1024)"
    )
    group.add_argument(
        "--retry-failed",
        action="store_true",
        help="ask again about pictures whose caption was cut off, refused, empty, or none",
    )


def _add_endpoint(caption: argparse.ArgumentParser) -> None:
    group = caption.add_argument_group("endpoint", "the API key is taken from OPENAI_API_KEY, and written nowhere")
    group.add_argument("--endpoint", metavar="URL", help="an OpenAI-compatible endpoint, such as http://localhost:8000/v1")
    group.add_argument("--model", metavar="NAME", help="as the endpoint names it")
    group.add_argument(
        "--parameters", default="{}", metavar="JSON", help="others of a request: '{\"temperature\": 0.2}' (default: none)"
    )
    group.add_argument("--detail", choices=("low", "high"), help="of pictures, for endpoints that know it (default: not sent)")
    group.add_argument(
        "--max-side", type=positive, default=2048, metavar="N", help="larger pictures are scaled down, pixels (default: 2048)"
    )
    group.add_argument("--concurrency", type=positive, default=8, metavar="N", help="requests at a time (default: 8)")
    group.add_argument(
        "--timeout", type=above_zero, default=120.0, metavar="SECONDS", help="of one request with its answer (default: 120)"
    )
    group.add_argument(
        "--cache",
        type=path,
        metavar="FILE",
        help="an SQLite file that keeps what was answered (default: captions.sqlite in pargo's cache)",
    )


def _add_limits(caption: argparse.ArgumentParser) -> None:
    group = caption.add_argument_group(
        "limits", "they hold in every minute, over restarts too; those in headers hold beside them"
    )
    group.add_argument("--limit-requests", type=positive, metavar="N", help="a minute")
    group.add_argument("--limit-input-tokens", type=positive, metavar="N", help="a minute, pictures included")
    group.add_argument("--limit-output-tokens", type=positive, metavar="N", help="a minute")
    group.add_argument(
        "--prices",
        type=path,
        metavar="FILE",
        help="JSON or YAML: {MODEL: {input: USD, output: USD}} per million tokens; cached_input and batch (a share) may follow",
    )
    group.add_argument(
        "--max-cost",
        type=above_zero,
        metavar="USD",
        help="ask nothing that could cost more, all runs together; see docs/captions.md",
    )
    group.add_argument("--estimate", action="store_true", help="say what it will take, and ask nothing")


def _add_batches(caption: argparse.ArgumentParser) -> None:
    group = caption.add_argument_group("batches", "files of a provider's batches, in OpenAI's form, in place of asking")
    group.add_argument(
        "--batch",
        choices=("write", "read", "forget"),
        help="write files to upload into DIR/batch; read files of results; or let go of batches that were given up",
    )
    group.add_argument(
        "--results", type=path, nargs="+", default=[], metavar="FILE", help="of --batch read: files of answers, and of errors"
    )


def _add_model(caption: argparse.ArgumentParser) -> None:
    group = caption.add_argument_group("model", "of one's own, in place of an endpoint")
    group.add_argument("--local", type=path, metavar="DIR", help="folder of model and processor")
    group.add_argument("--batch-size", type=positive, default=8, metavar="N", help="pictures at once (default: 8)")
    group.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the whole model (default: auto, as it was saved)",
    )
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: the GPU where there is one")
