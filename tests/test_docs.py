"""The documentation stays true: its Python runs, its commands exist, its links lead somewhere, its counts are recounted."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.contest.records import read_rows
from bench.counts.schedule import scheduled_work
from bench.counts.traffic import least_work
from bench.problems.attention import Cascaded, PartialGlobal
from bench.shown.tables import page, ways
from pargo_cli.main import build_parser
from pargo_mllm.training.recipes import load_recipe

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# how a command of the documentation is tried without its hour: what is put behind it
SHORTER = {
    "pargo demo": "--scale tiny --out {out} --cache {out}/cache",
    # run whole by the demo's own tests
    "pargo demo --compare": "--help",
    "pargo data list": "",
    "pargo data prepare": "--help",
    "pargo data mixture": "--help",
    "pargo data patches": "--help",
    "pargo train": "--dry-run",
    "pargo merge": "--help",
    "pargo caption": "--help",
    "pargo chat": "--help",
    "pargo assemble": "--help",
    "pargo convert-release": "--help",
    "pargo eval": "--help",
    "pargo score": "--help",
    "pargo report": "--help",
    "pargo align": "--help",
    "pargo validate": "--help",
    "pargo filter": "--help",
    "pargo data card": "--help",
    # all rivals of the default suite are run by the benchmark's own tests
    "python bench/run.py": "--dry-run --out {out} --providers pargo split",
    "python bench/run.py --": "--dry-run --out {out}",
    "python bench/run.py --suite cpu-band": "--dry-run --out {out} --providers pargo sliced",
    "python bench/micro.py": "--rounds 2 --shapes 10",
    "python bench/train.py": "",
    "python -m bench.shown.tables": "",
    "python bench/evaluate.py": "--size minute --rounds 1 --questions 2 --out {out}/evaluate.json",
    "python bench/validate.py": "--samples 50 --decoded 20 --rounds 1 --out {out}/validate.json",
    "python3 bench/gate.py": "--list",
    "python -m pargo_kernels.aot": "--sample 1",
    "python -m pargo_kernels.tune": "--help",
    "python -m pargo_kernels.env_report": "",
    "python -m tests.mutation": "--list",
}


def blocks(page, *languages):
    return [
        text for language, text in re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.M | re.S) if language in languages
    ]


def commands():
    found = [line.split("#")[0].strip() for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    return sorted({line for line in found if line})


def ids(pages):
    return [str(page.relative_to(ROOT)) for page in pages]


WITH_CODE = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_CODE, ids=ids(WITH_CODE))
def test_python_runs(page, tmp_path):
    # a page's blocks build on each other
    code = "\n".join(blocks(page, "python"))
    # the benchmarks are imported from the repository
    from_here = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=from_here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", commands())
def test_command(command, tmp_path):
    words = shlex.split(command)
    if words[0] == "make":
        # the target exists and its recipe expands
        run = ["make", "--dry-run", *words[1:]]
    elif words[0] == "torchrun":
        # the machines are the reader's; the recipe and its keys are ours, and so are the options of another command
        if "train" not in words:
            build_parser().parse_args(words[words.index("pargo_mllm") + 1 :])
            return
        recipe, *keys = words[words.index("train") + 1 :]
        load_recipe(recipe, {key.removeprefix("--"): value for key, value in zip(keys[::2], keys[1::2], strict=True)})
        return
    elif words[0] == "tensorboard":
        run = [sys.executable, "-m", "tensorboard.main", "--version"]
    elif words[0] == "git" or words[:2] == ["pip", "install"] or "pytest" in words:
        # of these only the names of files and extras can be wrong
        assert all((ROOT / word).exists() for word in words if "/" in word and "://" not in word), command
        return
    else:
        start = max((start for start in SHORTER if command.startswith(start)), key=len)
        shorter = shlex.split(SHORTER[start].format(out=tmp_path))
        if words[0] == "pargo":
            words[:1] = ["python", "-m", "pargo_mllm"]
        if "../coco" in command:
            pytest.skip("needs a folder of photographs that the reader brings")
        run = [sys.executable, *words[1:], *shorter]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_traffic_table_is_what_the_schedule_counts():
    problems = {
        str(problem): problem
        for problem in (
            PartialGlobal(64, 16, 64, 576, 288, 16),
            PartialGlobal(1, 16, 64, 65536, 32768, 16),
            Cascaded(64, 16, 64, 288, 48),
            Cascaded(1, 16, 64, 32768, 48),
        )
    }
    rows = re.findall(
        r"^\| ([PC][PG]P .*?) \| (\w+) \| (.*?) \| (.*?) \| (.*?) \|$", (ROOT / "docs/kernels.md").read_text(), re.M
    )
    assert len(rows) == 2 * len(problems)
    for name, direction, *figures in rows:
        moved = scheduled_work(problems[name], direction, torch.bfloat16, "sm_90").bytes
        least = least_work(problems[name], direction, 2).bytes
        assert figures == [f"{least / 1e6:.1f}", f"{moved / 1e6:.1f}", f"{moved / least:.3f}"]


def table_rows(page, start):
    """Cells of the rows of the table whose header line begins with ``start``."""
    lines = page.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(start)) + 2
    last = next(number for number in range(first, len(lines)) if not lines[number].startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first:last]]


def shown(number):
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def time_of(row):
    return f"{shown(row.median_ms)} ({shown(row.q20_ms)}–{shown(row.q80_ms)})"


CPU_RESULTS = [
    path for name in ("quick", "cpu-band", "cpu-projector") for path in sorted(ROOT.glob(f"bench/results/*/{name}.csv"))
]


@pytest.mark.parametrize("path", CPU_RESULTS, ids=ids(CPU_RESULTS))
def test_a_cpus_tables_are_what_was_measured(path):
    assert page(path) in (ROOT / "README.md").read_text(), f"python -m bench.shown.tables {path}"


def test_the_projectors_table_is_what_was_measured():
    rows = read_rows(ROOT / "bench/results/nvidia-h100-80gb-hbm3/gate-projector.csv")
    assert ways(rows) in (ROOT / "README.md").read_text()


def test_gpu_table_is_what_was_measured():
    folder = ROOT / "bench/results/nvidia-h100-80gb-hbm3"
    rows = [row for name in ("gate-pgp", "gate-cpp", "gate-flex") for row in read_rows(folder / f"{name}.csv")]
    rows = [row for row in rows if (row.direction, row.status, row.launch) == ("forward+backward", "ok", "graph")]
    ours = {(row.suite, row.group): row for row in rows if row.provider == "pargo"}
    table = table_rows(ROOT / "README.md", "| bf16, forward + backward")
    assert table
    for problem, time, dense_time, *ratios in table:
        # a rival's ratio is one of its own run
        times = {}
        for row in rows:
            if row.problem == problem:
                times.setdefault(row.provider, (row, row.median_ms / ours[row.suite, row.group].median_ms))
        mine, dense = times["pargo"][0], times["sdpa-mask-cudnn"][0]
        assert (time, dense_time) == (time_of(mine), time_of(dense))
        rivals = {name: ratio for name, (_, ratio) in times.items() if name not in ("pargo", "bound-flash")}
        strongest = min(rivals, key=rivals.__getitem__)
        share = mine.minimum_bytes_per_s / mine.copy_bytes_per_s
        assert ratios == [
            shown(times["sdpa-mask-cudnn"][1]),
            shown(times["bound-flash"][1]),
            f"{strongest}: {shown(rivals[strongest])}",
            f"{100 * share:.0f} %",
        ]


def test_demo_table_is_what_was_measured():
    results = json.loads((ROOT / "docs/demo_results.json").read_text())
    for name, tokens, *shares in table_rows(ROOT / "README.md", "| | tokens | untrained"):
        (found,) = [projector for projector in results["projectors"] if projector["name"] == name]
        assert int(tokens) == found["tokens"]
        assert shares == [f"{100 * found[stage]['mean']:.1f}" for stage in ("before", "stage1", "stage2")]
    text = " ".join((ROOT / "README.md").read_text().split())
    constant, hidden, other = (
        f"{100 * results['baselines'][name]['mean']:.1f}" for name in ("constant", "text_only", "shuffled")
    )
    assert f"best constant answer gets {constant}; the trained model gets {hidden} with the picture hidden and {other}" in text
