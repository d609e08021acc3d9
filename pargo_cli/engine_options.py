"""What commands say of whoever does their pieces of work."""

from __future__ import annotations

import argparse

from pargo_cli.values import positive


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--engine`` and ``--processes``; :func:`pargo_mllm.jobs.engine_of` takes them."""
    group = parser.add_argument_group("processes", "what is written is the same with any of them")
    group.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="processes of this machine, or a Ray cluster (pargo[ray]) whose machines see the same files (default: local)",
    )
    group.add_argument("--processes", type=positive, metavar="N", help="pieces at a time (default: as many as there are cores)")
