"""Gates of small Python programs."""

import json

from bench.gating.parts import Step
from bench.gating.runner import Budget, Gate
from tests.bench.made.places import ROOT

WRITES_ROWS = """
import os, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {root!r})
from bench.contest.records import ResultFile
from tests.bench.made.rows import MACHINE, ROW
child = subprocess.Popen([sys.executable, "-c", "import os; os.setsid(); import time; time.sleep(600)"])
with ResultFile(Path({out!r}) / "rows.csv", MACHINE) as results:
    results.add(replace(ROW, provider="one"))
    print(child.pid, flush=True)
    Path({out!r}, "started").touch()
    time.sleep(600)
"""


def outcomes(out):
    return {(o["part"], o["step"]): o for o in json.loads((out / "gate.json").read_text())}


def script(place, code, name="only", **options):
    return Step(name, place.python("-c", code), options.pop("estimate", 1.0), **options)


def make_gate(place, *parts, commit="commit one", seconds=None, kept=("rows.csv",)):
    return Gate(place, commit, parts, kept, Budget(seconds))


def rows_step(place, **options):
    code = WRITES_ROWS.format(root=str(ROOT), out=str(place.out))
    return script(place, code, **options)
