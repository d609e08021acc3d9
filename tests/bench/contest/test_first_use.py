"""First calls are those of processes that find nothing, and then what the first one left."""

import os

import pytest

from bench.contest.first_use import first_use
from bench.run import cold_compiler


def test_a_machine_without_a_compiler_says_so(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "no-such-compiler" in first_use()


@pytest.mark.long
def test_the_first_process_compiles_and_the_next_does_not(monkeypatch, tmp_path):
    compiler, calls = tmp_path / "cc", tmp_path / "calls"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexec cc "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    first = first_use()
    assert not isinstance(first, str), first
    assert sum("-shared" in line for line in calls.read_text().splitlines()) == 1
    assert first.cached < first.compiling


@pytest.mark.long
def test_torch_compile_finds_nothing_of_earlier_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with cold_compiler(True):
        folder = os.environ["TORCHINDUCTOR_CACHE_DIR"]
        assert folder != str(tmp_path)
        assert os.listdir(folder)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
    assert not os.path.exists(folder)
    assert not os.listdir(tmp_path)
