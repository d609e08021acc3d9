"""The GPU gate, rehearsed on the CPU: every command of every part runs, nothing is lost, and what is done is not done again."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from bench import gate
from bench.contest.records import read_rows
from bench.gating.parts import SECONDS, Part, Place, Step, full_gate, short_gate
from bench.gating.runner import Budget
from tests.bench.made.gates import make_gate, outcomes, rows_step, script
from tests.bench.made.places import ROOT

SHORT = ["preflight", "warm-up", "corners", "bitwise", "pgp", "cpp", "tune", "rest"]
# the parts of the full gate whose commands the short one does not run too
LARGER = ["tests", "flagship", "band", "memory", "peers", "projector", "train"]


def rehearse(out, *arguments, **options):
    command = [sys.executable, "bench/gate.py", "--rehearse", "--out", str(out), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


def check_rehearsed(out):
    for (_, step), outcome in outcomes(out).items():
        # a memory checker needs a GPU; everything else ran
        assert outcome["status"] == ("unavailable" if step in ("memcheck", "racecheck") else "passed"), outcome
        # results are committed: no path of this machine
        assert str(ROOT) not in outcome["command"] + outcome["last_words"]
    assert str(ROOT) not in (out / "gate.log").read_text()


def test_the_first_parts_of_the_short_gate_rehearsed(tmp_path):
    done = rehearse(tmp_path, "--minutes", "30", "--part", *SHORT[:3])
    assert done.returncode == 0, done.stdout + done.stderr
    check_rehearsed(tmp_path)
    found = outcomes(tmp_path)
    assert {part for part, _ in found} == set(SHORT[:3])
    assert "7 of 7 kernels launched once" in found["preflight", "preflight"]["last_words"]


# a minute and a half
@pytest.mark.long
def test_the_short_gate_rehearsed(tmp_path):
    done = rehearse(tmp_path, "--minutes", "30")
    assert done.returncode == 0, done.stdout + done.stderr
    check_rehearsed(tmp_path)
    found = outcomes(tmp_path)
    assert list(dict.fromkeys(part for part, _ in found)) == SHORT
    assert "7 of 7 kernels launched once" in found["preflight", "preflight"]["last_words"]
    assert "2 of 2 compiled" in found["warm-up", "compile"]["last_words"]
    assert "1 passed" in found["corners", "tests"]["last_words"]
    rows = read_rows(tmp_path / "gate-pgp.csv")
    assert {row.provider for row in rows} == {"pargo", "bound-flash"}
    tuned = json.loads((tmp_path / "tuned.json").read_text())
    assert len(tuned["lines"]) == 5
    files = {file.name for file in tmp_path.iterdir() if file.is_file()}
    assert files == {
        "gate.json", "gate.log", "gate-pgp.csv", "gate-cpp.csv", "tuned.json", "gate-flex.csv", "gate-projector.csv",
        "train_small.csv",
    }  # fmt: skip

    again = rehearse(tmp_path, "--minutes", "30")
    assert "all parts have passed" in again.stdout


@pytest.mark.long
def test_the_larger_parts_of_the_full_gate_rehearsed(tmp_path):
    done = rehearse(tmp_path, "--part", *LARGER)
    assert done.returncode == 0, done.stdout + done.stderr
    check_rehearsed(tmp_path)
    assert {part for part, _ in outcomes(tmp_path)} == set(LARGER)
    assert "4 passed" in outcomes(tmp_path)["tests", "tests"]["last_words"]
    files = {file.name for file in tmp_path.iterdir() if file.is_file()}
    assert files == {"gate.json", "gate.log", "flagship.csv", "band.csv", "full.csv", "projector.csv", "train_paper.csv"}


def test_the_parts_and_what_they_may_take_are_listed():
    done = subprocess.run(
        [sys.executable, "bench/gate.py", "--list", "--minutes", "8"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    caps = {line[0]: line[1] for line in lines if line[0] in SHORT}
    assert caps == dict(zip(SHORT, ("20", "60", "60", "50", "120", "50", "60", "rest"), strict=True))
    assert "of 480 s that there are" in done.stdout


def test_a_rehearsal_has_no_caps_for_they_are_a_gpus(tmp_path, capsys):
    assert gate.main(["--rehearse", "--list", "--minutes", "30", "--out", str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[1] for line in lines if line[0] in SHORT] == ["rest"] * len(SHORT)


def test_an_unknown_part_is_an_error_that_lists_the_known_ones(tmp_path):
    done = rehearse(tmp_path, "--part", "pgb", "--minutes", "8")
    assert done.returncode == 2
    assert "pgb is unknown: use preflight, warm-up" in done.stderr


def test_the_same_questions_in_the_same_order(tmp_path):
    place = Place(True, tmp_path, tmp_path)
    for parts in (short_gate(place), full_gate(place)):
        # a part's steps fit into its cap, by our own estimate
        assert all(part.estimate <= part.cap for part in parts if part.cap)
        assert all(step.needs <= step.estimate for part in parts for step in part.steps)
        assert parts[0].needed
    assert sum(part.estimate for part in short_gate(place)[:-1]) < 0.75 * 8 * 60


# from here on: made-up parts


@pytest.fixture
def place(tmp_path):
    return Place(True, tmp_path / "out", tmp_path / "scratch")


def test_a_failed_step_is_named_kept_and_run_again(place, tmp_path):
    worked = tmp_path / "worked"
    # in the folder where it runs, of which nothing is said
    code = (
        f"import os, pathlib, sys; print(os.path.abspath('seen')); sys.exit(0 if pathlib.Path({str(worked)!r}).exists() else 3)"
    )
    other = Part("other", "?", None, (script(place, "print('also')"),))
    parts = (Part("trial", "?", None, (script(place, code),)), other)
    runs = make_gate(place, *parts)
    assert not runs.run(runs.left())
    found = outcomes(place.out)
    assert found["trial", "only"]["status"] == "failed"
    assert found["trial", "only"]["last_words"] == "seen\n\nexit status 3"
    # a failure does not keep the next part from running
    assert found["other", "only"]["status"] == "passed"
    again = make_gate(place, *parts)
    assert [part.name for part in again.left()] == ["trial"]
    worked.touch()
    assert again.run(again.left())
    assert make_gate(place, *parts).left() == []
    # another commit has to show it again
    assert [part.name for part in make_gate(place, *parts, commit="commit two").left()] == ["trial", "other"]


def test_nothing_follows_a_needed_part_that_failed(place, capsys):
    first = Part("first", "?", None, (script(place, "raise SystemExit(1)"),), needed=True)
    runs = make_gate(place, first, Part("second", "?", None, (script(place, "pass"),)))
    assert not runs.run(runs.left())
    assert set(outcomes(place.out)) == {("first", "only")}
    assert "nothing else can be told without first" in capsys.readouterr().out


def test_a_part_that_no_longer_fits_is_skipped_and_said(place, capsys):
    parts = (
        Part("long", "?", None, (script(place, "pass", estimate=100.0),)),
        Part("capped", "?", 5.0, (script(place, "pass", estimate=10.0, least=8.0),)),
        Part("short", "?", None, (script(place, "pass", estimate=100.0, least=1.0),)),
    )
    runs = make_gate(place, *parts, seconds=60.0)
    assert runs.run(runs.left())
    found = outcomes(place.out)
    assert {part: o["status"] for (part, _), o in found.items()} == {"long": "skipped", "capped": "skipped", "short": "passed"}
    assert found["capped", "only"]["last_words"] == "5 s left, needs 8"
    assert "long/only: skipped (57 s left, needs 100)" in capsys.readouterr().out
    # what was skipped is left for a second call, with more time
    again = make_gate(place, *parts[:1], seconds=200.0)
    assert again.run(again.left())
    assert outcomes(place.out)["long", "only"]["status"] == "passed"


@pytest.mark.parametrize("later", ["commit one", "commit two"])
def test_that_it_was_not_tried_again_does_not_hide_how_it_failed(place, later):
    part = Part("trial", "?", None, (script(place, "raise SystemExit(1)", estimate=20.0),))
    make_gate(place, part).run([part])
    make_gate(place, part, commit=later, seconds=5.0).run([part])
    found = outcomes(place.out)["trial", "only"]
    assert (found["status"], found["commit"]) == ("failed", "commit one")


def gone(pid):
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


def test_a_step_that_overruns_is_killed_with_its_children_and_its_rows_stay(place):
    part = Part("trial", "?", 12.0, (rows_step(place), script(place, "print('next')", "next")))
    runs = make_gate(place, part)
    assert not runs.run(runs.left())
    found = outcomes(place.out)
    assert found["trial", "only"]["status"] == "stopped"
    assert [row.provider for row in read_rows(place.out / "rows.csv.partial")] == ["one"]
    # a child in a session of its own too
    assert gone(int(found["trial", "only"]["last_words"].split()[0]))
    # the part's seconds are spent
    assert found["trial", "next"]["status"] == "skipped"
    # a second try that gets less far does not lose them
    make_gate(place, part).run([Part("trial", "?", 1.0, (script(place, "pass"),))])
    (aside,) = place.scratch.glob("rows.csv.partial.*")
    assert [row.provider for row in read_rows(aside)] == ["one"]


@pytest.mark.skipif(sys.platform != "linux", reason="that a step dies with its gate is asked of Linux")
@pytest.mark.parametrize("way", (signal.SIGKILL, signal.SIGTERM), ids=lambda way: way.name)
def test_a_gate_that_is_killed_loses_nothing_that_was_written(place, way):
    program = f"""
import signal, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from bench.gating.parts import Part
from bench.gating.parts import Place
from tests.bench.made.gates import make_gate, rows_step, script
place = Place(True, Path({str(place.out)!r}), Path({str(place.scratch)!r}))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
runs = make_gate(place, Part("first", "?", None, (script(place, "pass"),)), Part("second", "?", None, (rows_step(place),)))
runs.run(runs.left())
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    for _ in range(600):
        if (place.out / "started").exists():
            break
        time.sleep(0.1)
    step = next(
        child for child in psutil.Process(process.pid).children() if "tests.bench.made.rows" in " ".join(child.cmdline())
    )
    process.send_signal(way)
    process.wait()
    assert gone(step.pid)
    if way == signal.SIGKILL:
        # the grandchild, which nobody could tell, is ours to end
        os.kill(int((place.out / "gate.log").read_text().split()[-1]), signal.SIGKILL)
    assert outcomes(place.out)["first", "only"]["status"] == "passed"
    assert [row.provider for row in read_rows(place.out / "rows.csv.partial")] == ["one"]
    part = Part("first", "?", None, (script(place, "pass"),)), Part("second", "?", None, (script(place, "pass"),))
    assert [part.name for part in make_gate(place, *part).left()] == ["second"]


def test_what_serves_one_machine_is_done_again_on_another(place, tmp_path):
    parts = (
        Part("warm-up", "?", None, (script(place, "pass", local=True),)),
        Part("measured", "?", None, (script(place, "pass"),)),
        Part("later", "?", None, (script(place, "raise SystemExit(1)"),)),
    )
    make_gate(place, *parts).run(parts)
    assert [part.name for part in make_gate(place, *parts).left()] == ["later"]
    elsewhere = Place(True, place.out, tmp_path / "another machine")
    assert [part.name for part in make_gate(elsewhere, *parts).left()] == ["warm-up", "later"]
    # by itself it serves nothing
    assert make_gate(elsewhere, *parts[:2]).left() == []


def test_a_step_is_told_what_time_it_has(place):
    part = Part("trial", "?", 60.0, (Step("only", place.python("-c", "import sys; print(sys.argv[1])", SECONDS), 1.0),))
    make_gate(place, part).run([part])
    # and keeps some of it, to end by itself
    assert outcomes(place.out)["trial", "only"]["last_words"] == "52\n"


def test_only_what_is_kept_lies_beside_the_outcomes(place):
    code = f"import pathlib; [pathlib.Path({str(place.out)!r}, n).touch() for n in ('rows.csv', 'rows.png')]"
    part = Part("trial", "?", None, (script(place, code),))
    make_gate(place, part).run([part])
    assert {file.name for file in place.out.iterdir()} == {"gate.json", "gate.log", "rows.csv"}
    assert (place.scratch / "rows.png").exists()


def test_what_lay_there_before_stays_as_it_is(place):
    place.out.mkdir(exist_ok=True)
    (place.out / "notes.txt").write_text("mine")
    code = f"import pathlib; pathlib.Path({str(place.out)!r}, 'rows.png').touch()"
    part = Part("trial", "?", None, (script(place, code),))
    make_gate(place, part).run([part])
    assert (place.out / "notes.txt").read_text() == "mine"
    assert not (place.out / "rows.png").exists()


@pytest.mark.parametrize("content", ("", "null", '[{"part": 1}]'))
def test_a_damaged_file_of_outcomes_is_named(tmp_path, content):
    (tmp_path / "gate.json").write_text(content)
    done = rehearse(tmp_path, "--part", "preflight", "--minutes", "8")
    assert done.returncode == 2
    assert "gate.json is damaged" in done.stderr
    assert "move it away" in done.stderr
    assert (tmp_path / "gate.json").read_text() == content


@pytest.mark.parametrize("name", ["bench/x.py", "pargo_kernels/c_path/x.c", "pargo_kernels/c_path/x.h"])
def test_code_with_changes_is_told_apart_by_its_content(name, monkeypatch, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True)
    monkeypatch.setattr(gate, "ROOT", tmp_path)
    digests = []
    for content in ("a", "b", "a"):
        (tmp_path / name).write_text(content)
        digests.append(gate._digest())
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize("minutes", ("nan", "-1"))
def test_minutes_are_a_number_of_them(tmp_path, minutes):
    assert "must be above 0 and finite" in rehearse(tmp_path, f"--minutes={minutes}").stderr


def test_the_start_of_the_program_counts(monkeypatch):
    budget = Budget(60.0, spent=10.0)
    assert 46 < budget.left < 48
    assert gate.table([], 8.0).endswith("of 480 s that there are")
