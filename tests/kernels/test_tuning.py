"""The flagship lines: what is timed, what is chosen, what is written, and how it comes into the launch table."""

import json
import threading
import time
from concurrent.futures import Future

import pytest
import torch

from pargo_kernels.dispatch import TRITON_INSTALLED, interpreting
from pargo_kernels.triton_path import measured_lines

pytestmark = [
    pytest.mark.skipif(not TRITON_INSTALLED, reason="triton is not installed: there is nothing to tune"),
    pytest.mark.skipif(interpreting(), reason="kernels imported for the interpreter cannot be compiled"),
]


@pytest.fixture
def tuning():
    from pargo_kernels import tune_flagship

    return tune_flagship


@pytest.fixture
def own_table(monkeypatch, tmp_path):
    """A copy of the launch table, to be written to."""
    from pargo_kernels.triton_path import launch_table

    copy = tmp_path / "table.json"
    copy.write_text(launch_table.TABLE.read_text())
    for module in (launch_table, measured_lines):
        monkeypatch.setattr(module, "TABLE", copy)
    monkeypatch.setattr(measured_lines, "MEASURED", tmp_path / "measured.json")
    launch_table.forget()
    yield launch_table
    monkeypatch.undo()
    launch_table.forget()


def ready(faults):
    futures = {}
    for entry, fault in faults.items():
        futures[entry] = Future()
        if fault != "never":
            futures[entry].set_result(fault)
    return futures


def test_the_lines_are_those_that_the_flagship_calls_use(tuning):
    for kernel in tuning.KERNELS:
        present, *others = tuning.candidates(kernel, "sm_90")
        assert len(others) > 8
        # warps, stages and tiles are what varies; what the line is for is not
        assert {entry[:6] for entry in others} == {present[:6]}
        assert len({entry[6:] for entry in (present, *others)}) == 1 + len(others)
        used = set()
        for shape in tuning.shapes(kernel, False):
            for launch in tuning.launches(kernel, shape, torch.device("meta"), "sm_90"):
                if launch.kernel.__name__ == kernel:
                    used.add((launch.num_warps, launch.num_stages, launch.constants["BLOCK_N"]))
        assert used == {(present.num_warps, present.num_stages, present.block_n)}


def test_a_candidate_takes_the_place_of_the_line_while_it_is_timed(tuning):
    present, other = tuning.candidates("cascaded_forward", "sm_90")[:2]
    seen = []

    def clock(launches, kernel):
        seen.append([(launch.num_warps, launch.num_stages) for launch in launches if launch.kernel.__name__ == kernel])
        return 1.0

    tuning.time_line([present, other], ready({present: None, other: None}), clock, torch.device("cpu"), small=True)
    assert seen == [[(entry.num_warps, entry.num_stages)] for entry in (present, other)]


def test_the_fastest_over_all_shapes_is_chosen(tuning, monkeypatch):
    entries = tuning.candidates("cascaded_forward", "sm_90")[:4]
    times = {entries[0]: [10.0, 10.0], entries[1]: [4.0, 15.0], entries[2]: [9.0, 9.0], entries[3]: [1.0, 1.0]}
    monkeypatch.setattr(tuning, "_time", lambda entry, shape, clock, device: times[entry][shape])
    monkeypatch.setattr(tuning, "shapes", lambda kernel, small: (0, 1))
    faults = dict.fromkeys(entries[:3]) | {entries[3]: "spills registers"}
    line = tuning.time_line(entries, ready(faults), None, torch.device("cpu"))
    # twice as fast on one shape outweighs half as slow on the other, however long they take; the fourth is fast and wrong
    assert line["chosen"] == list(entries[1])
    assert [tried["fault"] for tried in line["candidates"]] == [None, None, None, "spills registers"]
    assert [tried["median_us"] for tried in line["candidates"]][1] == [4.0, 15.0]
    assert "spills registers" in tuning.shown(line)


def test_what_no_time_is_left_for_is_said_and_the_present_line_is_timed(tuning, monkeypatch):
    entries = tuning.candidates("cascaded_forward", "sm_90")[:3]
    monkeypatch.setattr(tuning, "_time", lambda *_: time.sleep(0.05) or 1.0)
    faults = {entries[0]: None, entries[1]: None, entries[2]: "never"}
    line = tuning.time_line(entries, ready(faults), None, torch.device("cpu"), seconds=0.3)
    assert [tried["fault"] for tried in line["candidates"]] == [None, None, "no time left"]
    # the present line is waited for, whatever the time
    futures = ready({entries[0]: "never"})
    threading.Timer(0.2, futures[entries[0]].set_result, [None]).start()
    line = tuning.time_line(entries[:1], futures, None, torch.device("cpu"), seconds=0.0)
    assert line["candidates"][0]["median_us"]


def test_a_candidate_that_raises_is_named_and_another_chosen(tuning, monkeypatch):
    entries = tuning.candidates("cascaded_forward", "sm_90")[:2]

    def failing(entry, *_):
        if entry == entries[0]:
            raise RuntimeError("no image")
        return 1.0

    monkeypatch.setattr(tuning, "_time", failing)
    line = tuning.time_line(entries, ready(dict.fromkeys(entries)), None, torch.device("cpu"))
    assert line["candidates"][0]["fault"] == "does not run: RuntimeError: no image"
    assert line["chosen"] == list(entries[1])


def test_faults_are_found_before_anything_is_timed(tuning):
    (present,) = tuning.candidates("cascaded_key_backward", "sm_90")[:1]
    assert tuning.fault(present, small=True) is None
    assert "does not compile" in tuning.fault(present._replace(num_warps=3), small=True)
    (band,) = tuning.candidates("cascaded_forward", "sm_90")[:1]
    assert "shared memory" in tuning.fault(band._replace(block=64, block_n=64, num_stages=15), small=True)


def tuned(tuning, tmp_path, **changes):
    present = tuning.candidates("cascaded_forward", "sm_90")[0]
    faster = present._replace(num_warps=2)
    tried = [{"line": list(e), "median_us": [us], "fault": None} for e, us in ((present, 2.0), (faster, 1.0))]
    line = {
        "kernel": "cascaded_forward",
        "shapes": ["s"],
        "present": list(present),
        "chosen": list(faster),
        "candidates": tried,
    }
    content = {"device": "NVIDIA H100", "triton": "3.6.0", "torch": "2.11.0", "lines": [line], **changes}
    file = tmp_path / "tuned.json"
    file.write_text(json.dumps(content))
    return file, present, faster


def test_chosen_lines_come_into_the_table_with_what_they_were_measured_on(tuning, own_table, tmp_path):
    file, present, faster = tuned(tuning, tmp_path)
    before = set(own_table.entries())
    assert measured_lines.summary() == f"0 of {len(before)} lines measured"
    assert tuning.adopt(file, lambda entry: True) == 0
    own_table.forget()
    assert set(own_table.entries()) == before - {present} | {faster}
    assert measured_lines.summary() == f"1 of {len(before)} lines measured (NVIDIA H100, triton 3.6.0)"
    # a line that is changed by hand afterwards was not measured
    own_table.write([line if line != faster else faster._replace(num_stages=1) for line in own_table.entries()])
    assert measured_lines.summary().startswith("0 of")


def test_a_line_comes_in_only_if_it_is_for_every_call(tuning, own_table, tmp_path, capsys):
    file, present, faster = tuned(tuning, tmp_path)
    before = set(own_table.entries())
    assert tuning.adopt(file, lambda entry: entry != faster) == 0
    own_table.forget()
    assert set(own_table.entries()) == before
    assert measured_lines.measured_lines() == [(list(present), "NVIDIA H100, triton 3.6.0")]
    assert f"{faster} is not for every call" in capsys.readouterr().out


def test_a_rehearsal_is_not_adopted(tuning, own_table, tmp_path, capsys):
    file, *_ = tuned(tuning, tmp_path, device="interpreter")
    before = own_table.TABLE.read_text()
    assert tuning.adopt(file, lambda entry: True) == 2
    assert "holds no measured line" in capsys.readouterr().out
    assert own_table.TABLE.read_text() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_without_a_gpu_the_flagship_lines_are_refused(tmp_path, capsys):
    from pargo_kernels import tune

    with pytest.raises(SystemExit):
        tune.main(["--flagship", str(tmp_path / "tuned.json")])
    assert "--flagship needs a GPU" in capsys.readouterr().err
