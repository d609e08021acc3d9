"""Files of answers, those of earlier versions too."""

import sqlite3

from pargo_mllm.endpoint import Answer, Failure
from pargo_mllm.endpoint.kept import KeptAnswers
from pargo_mllm.endpoint.usage import Usage

CUT = Failure("cut off (finish_reason length)", True, "length", Usage(3, 4))


def test_a_file_of_an_earlier_version_goes_on_and_can_go_back(tmp_path):
    """As versions before tokens were counted made and filled it."""
    with sqlite3.connect(tmp_path / "old.sqlite") as old:
        old.execute("CREATE TABLE answers (asked TEXT PRIMARY KEY, text TEXT NOT NULL, model TEXT NOT NULL)")
        old.execute("INSERT INTO answers VALUES ('a', '0.5', 'judge')")
    old.close()
    kept = KeptAnswers(tmp_path / "old.sqlite")
    assert kept.get("a") == Answer("0.5", "judge")
    kept.keep("b", Answer("1.0", "judge", Usage(1, 2)))
    kept.close()
    with sqlite3.connect(tmp_path / "old.sqlite") as old:
        old.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", ("c", "0.1", "judge"))
        assert old.execute("SELECT text FROM answers ORDER BY asked").fetchall() == [("0.5",), ("1.0",), ("0.1",)]
    old.close()


def test_a_failure_gives_way_to_an_answer_and_never_the_other_way(tmp_path):
    kept = KeptAnswers(tmp_path / "kept.sqlite")
    kept.keep_failure("a", CUT)
    assert (kept.get("a"), kept.failure("a")) == (None, CUT)
    kept.keep("a", Answer("whole", "m", Usage(5, 6)))
    kept.keep_failure("a", CUT)
    # of two answers the first is kept
    assert kept.keep("a", Answer("other", "m")) == Answer("whole", "m", Usage(5, 6))
    kept.close()
    again = KeptAnswers(tmp_path / "kept.sqlite")
    assert (again.get("a"), again.failure("a")) == (Answer("whole", "m", Usage(5, 6)), None)
    again.close()
