"""The command line before a command runs: what needs no model imports none, and what needs one is ready for it."""

import argparse
import fcntl
import importlib
import os
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress

import pytest

from pargo_cli.main import build_parser

CONSOLE = ("-c", "import sys; from pargo_cli.main import main; sys.argv[0] = 'pargo'; sys.exit(main())")
MODULE = ("-m", "pargo_mllm")
WITHOUT_A_MODEL = {
    "--help": 0,
    "--version": 0,
    "demo --help": 0,
    "train --help": 0,
    "chat --help": 0,
    "assemble --help": 0,
    "merge --help": 0,
    "convert-release --help": 0,
    "eval --help": 0,
    "score --help": 0,
    "report --help": 0,
    "align --help": 0,
    "": 2,
    "tarin": 2,
    "train": 2,
    "train mini-stage1 --lerning-rate 1": 2,
    "demo --seed x": 2,
    "chat": 2,
    "score answers.jsonl": 2,
    "score answers.jsonl --benchmark mmee": 2,
    "report": 2,
    "align model": 2,
    "align model --data scenes --held-out 1": 2,
    "report runs/a --difference 0": 2,
}


def python(*arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return subprocess.run([sys.executable, *arguments], env={**kept, **environment}, capture_output=True, text=True)


@pytest.mark.parametrize("start", [CONSOLE, MODULE], ids=["pargo", "python -m pargo_mllm"])
@pytest.mark.parametrize("arguments", WITHOUT_A_MODEL)
def test_what_needs_no_model_imports_none(start, arguments):
    done = python("-X", "importtime", *start, *arguments.split())
    assert done.returncode == WITHOUT_A_MODEL[arguments], done.stderr
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "pargo_cli.train" in imported
    assert not {name for name in imported if name.split(".")[0] in ("torch", "transformers", "numpy", "pargo_kernels")}


@pytest.mark.parametrize(
    ("start", "given", "spins"),
    [(CONSOLE, {}, False), (MODULE, {}, False), (CONSOLE, {"OMP_WAIT_POLICY": "ACTIVE"}, True)],
    ids=["pargo", "python -m pargo_mllm", "as the environment says"],
)
def test_threads_that_wait_sleep(start, given, spins):
    """OpenMP itself says how often it looks before it sleeps: what is set when torch is imported already counts for nothing."""
    done = python(*start, "train", "no-such-recipe", OMP_DISPLAY_ENV="verbose", **given)
    assert (done.returncode, "no-such-recipe is neither a recipe" in done.stderr) == (2, True), done.stderr
    counts = {int(count) for count in re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)}
    if not counts:
        pytest.skip("torch was built without GNU's OpenMP, which alone tells")
    assert [count > 0 for count in counts] == [spins]


def test_every_command_has_a_module_that_runs_it():
    (commands,) = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    with_a_model = {"align", "assemble", "caption", "chat", "convert-release", "demo", "eval", "filter", "merge", "train"}
    assert set(commands.choices) == {*with_a_model, "data", "report", "score", "validate"}
    (actions,) = [action for action in commands.choices["data"]._actions if isinstance(action, argparse._SubParsersAction)]
    modules = {name: parser.get_default("module") for name, parser in commands.choices.items() if name != "data"}
    assert modules == {name: f"pargo_mllm.commands.{name.replace('-', '_')}" for name in modules}
    told = {name: parser.get_default("module") for name, parser in actions.choices.items()}
    assert told == {name: f"pargo_mllm.commands.data.{'listing' if name == 'list' else name}" for name in told}
    for module in (*modules.values(), *told.values()):
        assert callable(importlib.import_module(module).run)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [("UserError('mend it')", 2, "pargo train: mend it\n"), ("KeyboardInterrupt", 130, "interrupted\n")],
)
def test_what_a_command_raises_becomes_a_line_and_a_status(error, status, said, tmp_path):
    (tmp_path / "spoilt.py").write_text(f"from pargo_mllm.errors import UserError\ndef run(options): raise {error}\n")
    code = (
        "import sys, pargo_cli.train as train; add = train.add_parser\n"
        "def spoilt(commands): add(commands); commands.choices['train'].set_defaults(module='spoilt')\n"
        "train.add_parser = spoilt\n"
        "import gc, pargo_cli.main as main\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "status = main.main(['train', 'mini-stage1'])\n"
        # it rests while a command is imported, and no longer
        "assert gc.isenabled()\n"
        "sys.exit(status)\n"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (status, said)


BAR = """
from pargo_cli.main import prepare
prepare()
import time
from tqdm.auto import tqdm
for _ in tqdm(range(8)):
    time.sleep(0.12)
"""


@pytest.mark.parametrize("terminal", [False, True], ids=["a file", "a terminal"])
def test_bars_do_not_fill_a_file(terminal):
    there, here = os.openpty() if terminal else os.pipe()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TQDM")}
    if terminal:
        # lines and columns
        fcntl.ioctl(here, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    try:
        subprocess.run([sys.executable, "-c", BAR], check=True, stderr=here, env=environment)
    finally:
        os.close(here)
    told = b""
    # a terminal that nobody has opened any more ends with an error
    with suppress(OSError), open(there, "rb", buffering=0) as opened:
        while some := opened.read(2**16):
            told += some
    # its beginning and its end, or each step
    assert (told.count(b"it/s") > 2) == terminal
    assert b"8/8" in told
