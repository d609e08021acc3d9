"""The command line: ``pargo`` or ``python -m pargo_mllm``."""

from pargo_cli.main import build_parser, main

__all__ = ["build_parser", "main"]
