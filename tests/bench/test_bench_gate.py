"""The GPU gate, rehearsed on the CPU: every command of every part runs, and what is done is not done again."""

import json
import subprocess
import sys

from tests.bench.conftest import ROOT


def rehearse(out, *arguments):
    command = [sys.executable, "bench/gate.py", "--rehearse", "--out", str(out), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_whole_gate_rehearsed(tmp_path):
    done = rehearse(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = {(o["part"], o["step"]): o for o in json.loads((tmp_path / "gate.json").read_text())}
    assert {part for part, _ in outcomes} == {"flagship", "kernels", "memory", "peers", "band", "projector", "train"}
    for (part, _), outcome in outcomes.items():
        # a memory checker needs a GPU; everything else ran
        assert outcome["status"] == "passed" or part == "memory"
        # results are committed: no path of this machine
        assert str(ROOT) not in outcome["command"] + outcome["last_words"]
    assert "4 passed" in outcomes["kernels", "tests"]["last_words"]
    files = {file.name for file in tmp_path.iterdir() if file.is_file()}
    assert len(files) == 8
    assert {"gate.json", "flagship.csv", "full.csv", "band.csv", "projector.csv", "train_paper.csv"} < files

    again = rehearse(tmp_path)
    assert "all parts have passed" in again.stdout


def test_a_failed_step_is_named_kept_and_run_again(tmp_path):
    from bench import gate

    place = gate.Place(True, tmp_path, tmp_path / "all")
    runs = gate.Gate(place, "commit one")
    worked = tmp_path / "worked"
    script = f"import pathlib, sys; print('seen'); sys.exit(0 if pathlib.Path({str(worked)!r}).exists() else 3)"
    gate.PARTS["trial"] = lambda place: [gate.Step("only", place.python("-c", script), {})]
    try:
        assert not runs.run("trial")
        (outcome,) = json.loads((tmp_path / "gate.json").read_text())
        assert outcome["status"] == "failed"
        assert outcome["last_words"].endswith("exit status 3")
        assert not gate.Gate(place, "commit one").done("trial")
        worked.touch()
        again = gate.Gate(place, "commit one")
        assert again.run("trial")
        assert gate.Gate(place, "commit one").done("trial")
        # another commit has to show it again
        assert not gate.Gate(place, "commit two").done("trial")
    finally:
        del gate.PARTS["trial"]
