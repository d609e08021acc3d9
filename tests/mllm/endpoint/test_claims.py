"""Several at one file: what one asks, no other asks."""

import sqlite3
import subprocess
import sys
import time

import pytest

from pargo_mllm.endpoint import claims
from pargo_mllm.endpoint.kept import Answer, KeptAnswers


@pytest.fixture
def two(tmp_path):
    both = [KeptAnswers(tmp_path / "kept.sqlite") for _ in range(2)]
    yield both
    for one in both:
        one.close()


def test_a_question_is_for_one_to_ask_until_it_is_answered_or_let_go_of(two):
    first, second = two
    assert first.claims.take("a")
    assert not second.claims.take("a")
    # nobody lets go of what is another's
    second.claims.release("a")
    assert not second.claims.take("a")
    first.keep("a", Answer("yes", "m"))
    assert second.claims.take("a")
    assert first.claims.take("b")
    first.claims.release("b")
    assert second.claims.take("b")


def test_claims_lapse_unless_they_are_renewed(two, monkeypatch):
    first, second = two
    monkeypatch.setattr(claims, "LEASE", 0.2)
    assert first.claims.take("a")
    for _ in range(4):
        time.sleep(0.1)
        first.claims.renew()
        assert not second.claims.take("a")
    time.sleep(0.25)
    assert second.claims.take("a")


def test_claims_of_a_killed_process_lapse_at_once_and_those_of_another_machine_do_not(two, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert two[0].claims.take("a")
    assert two[0].claims.take("b")
    with sqlite3.connect(tmp_path / "kept.sqlite") as file:
        file.execute("UPDATE claims SET process = ?", (gone.pid,))
        file.execute("UPDATE claims SET machine = 'another' WHERE asked = 'b'")
    file.close()
    assert two[1].claims.take("a")
    assert not two[1].claims.take("b")
