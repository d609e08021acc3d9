"""A rule is the one that was named or fits, nothing is scored that lacks a grade, and a result says how it came about."""

import json
import platform
from dataclasses import replace

import pytest

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, EvaluationError, Item, Rule, ScoringError, accuracy, each
from pargo_mllm.evaluation.runs.outcome import check_new, predictions_of, shown, write_outcome
from pargo_mllm.evaluation.scoring import chosen_rule, is_ranked, score


def right(one):
    return float(one.text == one.item.answer), one.text.lower()


def benchmark(*rules):
    return Benchmark("b", "B, Two", "{question}", lambda file: [], lambda file: [], rules, lambda said, file: file)


LETTER, OTHER = Rule("letter", each(right), accuracy), Rule("other", each(right), accuracy)
RANKED = Rule("likelihood", each(right), accuracy, ranks=True)
JUDGED = Rule("judge", each(right), accuracy, needs_grades=True)
ITEMS = [
    Item(id=str(n), question=f"Q{n}?", answer=answer, picture="p.jpg", part=part)
    for n, (answer, part) in enumerate([("A", "one"), ("B", "one"), ("A", "two")])
]
ANSWERED = [
    Answered(item, text, f"p, line {line}") for line, (item, text) in enumerate(zip(ITEMS, "ABB", strict=True), start=1)
]


@pytest.mark.parametrize(
    ("rules", "name", "ranked", "chosen"),
    [
        ((RANKED, LETTER), None, True, "likelihood"),
        ((RANKED, LETTER), None, False, "letter"),
        ((OTHER, LETTER), None, False, "other"),
        ((OTHER, LETTER), "letter", False, "letter"),
        ((RANKED, LETTER), "likelihood", True, "likelihood"),
        (
            (RANKED, LETTER),
            "likelihood",
            False,
            "--rule likelihood ranks the choices .* answers without them; letter takes them",
        ),
        (
            (RANKED, LETTER),
            "letter",
            True,
            "--rule letter reads what a model said, .* rankings of the choices; likelihood takes",
        ),
        ((LETTER,), None, True, r"the predictions are rankings, and none of its rules \(letter\) takes them"),
        ((RANKED,), None, False, r"the predictions are texts, and none of its rules \(likelihood\)"),
        ((RANKED, LETTER), "leter", False, "--rule leter: b has likelihood, letter"),
    ],
)
def test_the_rule_fits_what_the_model_gave(rules, name, ranked, chosen):
    if " " not in chosen:
        assert chosen_rule(benchmark(*rules), name, ranked).name == chosen
    else:
        with pytest.raises(ScoringError, match=chosen):
            chosen_rule(benchmark(*rules), name, ranked)


def test_a_ranking_is_one_of_all_answers():
    ranked = [replace(one, losses={"A": 0.5}) for one in ANSWERED]
    assert (is_ranked(ANSWERED), is_ranked(ranked)) == (False, True)
    with pytest.raises(ScoringError, match=r"^p, line 3: it has no losses of the choices, which 2 other predictions have"):
        is_ranked([*ranked[:2], ANSWERED[2]])


def test_a_result_says_how_it_came_about():
    scored = score(benchmark(LETTER), LETTER, ANSWERED, joined_by="id", versions={"torch": "9"})
    assert scored.result == {
        "accuracy": 2 / 3,
        "parts": {"one": 1.0, "two": 0.0},
        "benchmark": "b",
        "rule": "letter",
        "questions": 3,
        "joined_by": "id",
        "versions": {**scored.result["versions"], "python": platform.python_version(), "torch": "9"},
    }
    assert [(mark.value, mark.where) for mark in scored.marks] == [(1.0, "p, line 1"), (1.0, "p, line 2"), (0.0, "p, line 3")]


@pytest.mark.parametrize(
    ("grades", "said"),
    [
        ([(), (), ()], "^p, line 1: a judge's grade is missing for 3 of 3 answers"),
        ([(0.5,), (), (1.0,)], "^p, line 2: a judge's grade is missing for 1 of 3 answers, the first is that to '1'"),
        ([(0.5, 0.5), (0.5, 0.5), (1.0,)], "^p, line 3: the judge graded it 1 times, and others 2 times"),
    ],
)
def test_nothing_is_scored_while_grades_are_missing(grades, said):
    answered = [replace(one, grades=given) for one, given in zip(ANSWERED, grades, strict=True)]
    with pytest.raises(ScoringError, match=said):
        score(benchmark(JUDGED), JUDGED, answered)
    with pytest.raises(ScoringError, match="there is no answer to score"):
        score(benchmark(JUDGED), JUDGED, [])


def test_a_run_is_written_and_read_again(tmp_path):
    folder = tmp_path / "new" / "run"
    check_new(folder)
    scored = score(benchmark(LETTER), LETTER, ANSWERED)
    write_outcome(folder, {"command": ["pargo"], "predictions": "said.jsonl"}, scored, lambda item: f"asked {item.id}")
    assert sorted(file.name for file in folder.iterdir()) == ["marks.jsonl", "result.json", "run.json"]
    assert json.loads((folder / "result.json").read_text()) == scored.result
    run = json.loads((folder / "run.json").read_text())
    assert (run["benchmark"], run["rule"], run["command"]) == ("b", "letter", ["pargo"])
    assert run["versions"] == scored.result["versions"]
    marks = [json.loads(line) for line in (folder / "marks.jsonl").read_text().splitlines()]
    assert marks[2] == {
        "id": "2",
        "picture": "p.jpg",
        "part": "two",
        "question": "Q2?",
        "asked": "asked 2",
        "answer": "A",
        "said": "B",
        "read": "b",
        "value": 0.0,
        "where": "p, line 3",
    }
    assert predictions_of(folder, "b") == folder / "said.jsonl"
    with pytest.raises(ScoringError, match="is a run of b, not of mme"):
        predictions_of(folder, "mme")
    with pytest.raises(EvaluationError, match="is there already"):
        check_new(folder)
    (folder / "run.json").write_text("[]")
    with pytest.raises(ScoringError, match="names no predictions"):
        predictions_of(folder, "b")


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    scored = score(benchmark(LETTER), LETTER, ANSWERED)
    with pytest.raises(EvaluationError, match=r"file/run cannot be written"):
        write_outcome(tmp_path / "file" / "run", {}, scored, str)


def test_a_table_for_a_person_has_units():
    result = {"accuracy": 0.125, "cider": 1.5, "subtasks": {"OCR": 107.5}, "runs": [31.0, 32.5], "counts": {"TP": 1182}}
    result |= {
        "parts": {},
        "with_picture": None,
        "rule": "letter",
        "questions": 3000,
        "joined_by": "id",
        "versions": {"pargo": "1"},
    }
    assert shown(benchmark(LETTER), result).splitlines() == [
        "B, Two, rule letter: 3,000 questions, joined by id",
        "  accuracy     12.5000 %",
        "  cider         1.5000",
        "  subtasks",
        "    OCR       107.5000 points",
        "  runs         31.0000 points",
        "  runs         32.5000 points",
        "  counts",
        "    TP      1,182",
        "with pargo 1",
    ]
