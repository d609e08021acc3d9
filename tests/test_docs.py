"""The documentation stays true: its Python runs, its commands exist, its links lead somewhere, its counts are recounted."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.problems import Cascaded, PartialGlobal
from bench.schedule import scheduled_work
from bench.traffic import least_work

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# how a command of the documentation is tried without its hour: what is put behind it
SHORTER = {
    "pargo demo": "--scale tiny --out {out} --cache {out}/cache",
    "pargo merge": "--help",
    "pargo chat": "--help",
    "pargo convert-release": "--help",
    "python bench/run.py": "--dry-run --providers pargo --out {out}",
    "python3 bench/gate.py": "--list",
    "python -m pargo_kernels.aot": "--sample 1 --arch sm_90",
    "python -m pargo_kernels.tune": "--help",
    "python -m pargo_kernels.env_report": "",
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
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", commands())
def test_command(command, tmp_path):
    words = shlex.split(command)
    if words[0] == "make":
        # the target exists and its recipe expands
        run = ["make", "--dry-run", *words[1:]]
    elif words[0] == "git" or words[:2] == ["pip", "install"] or "pytest" in words:
        # of these only the names of files and extras can be wrong
        assert all((ROOT / word).exists() for word in words if "/" in word and "://" not in word), command
        return
    else:
        (start,) = [start for start in SHORTER if command.startswith(start)]
        shorter = shlex.split(SHORTER[start].format(out=tmp_path))
        words = [word for word in words if word not in shorter]
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
