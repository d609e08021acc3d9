"""``pargo report``."""

from __future__ import annotations

import argparse

from pargo_mllm.evaluation.benchmarks import find
from pargo_mllm.evaluation.reporting.comparing import compare
from pargo_mllm.evaluation.reporting.report import told, write_report
from pargo_mllm.evaluation.runs.run_folder import read_run


def run(options: argparse.Namespace) -> None:
    """Read the runs, compare them, and write the page and the JSON."""
    compared = compare([read_run(folder) for folder in options.runs], find)
    page, figures = write_report(compared, options.out, options.json, options.difference, options.words)
    for line in told(compared):
        print(line)
    print(f"{page}: the report; {figures}: its figures")
