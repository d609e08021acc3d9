"""What is graded is not asked for, what is missing is no zero. The judge is a real server, which counts what it is asked."""

import json
import re

import pytest

from pargo_mllm.evaluation.benchmark import Answered, Item, ScoringError
from pargo_mllm.evaluation.benchmarks import find
from pargo_mllm.evaluation.judging.grading import graded
from pargo_mllm.evaluation.judging.judges import correctness_of, option_of, scores_of
from tests.mllm.made.benchmark_files_judged import write_llava_bench, write_mm_vet
from tests.mllm.made.endpoints import Reply, completion, serving
from tests.mllm.made.judged_scores import judge_options, judged_score

MM_VET_ANSWERS = {"v1_0": "red", "v1_1": "one", "v1_2": "a circle", "v1_3": "unknown"}


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def mm_vet(tmp_path):
    """Questions, and a file of predictions."""
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps(MM_VET_ANSWERS))
    return write_mm_vet(tmp_path / "data") / "mm-vet.json", predictions


def judged(server, tmp_path, *more):
    return "--judge", "judge", "--judge-url", server.url, "--judge-cache", tmp_path / "kept.sqlite", *more


def prediction_of(asked):
    """The third cell of the line of MM-Vet's table that the judge completes."""
    line = [line for line in asked["messages"][0]["content"].split("\n") if line.endswith(" | ")][-1]
    return line.split(" | ")[2]


def by_prediction(asked, number):
    return {"red": "1.0", "one": "0.5", "a circle": "1", "unknown": "0.0"}[prediction_of(asked)]


def test_a_judge_grades_and_is_not_asked_again(tmp_path, mm_vet):
    with serving(by_prediction) as server:
        first = judged_score("mm_vet", *mm_vet, *judged(server, tmp_path))
        assert first["score"] == 100 * (1 + 0.5 + 1 + 0) / 4
        assert first["by_capability"] == pytest.approx({"rec": 250 / 3, "ocr": 50, "math": 100})
        assert first["by_capability_set"] == {"rec": 100, "rec_ocr": 50, "rec_ocr_math": 100, "ocr": 0}
        assert first["judge"] == "judge (judge-0613)"
        assert first["grades"] == {"runs": 1, "from_file": 0, "from_judge": 4, "unused": 0}
        assert len(server.asked) == 4
        assert {asked["temperature"] for asked in server.asked} == {0}
        assert {asked["model"] for asked in server.asked} == {"judge"}
        assert judged_score("mm_vet", *mm_vet, *judged(server, tmp_path)) == first
        assert len(server.asked) == 4


def test_runs_are_asked_for_each_on_its_own_and_averaged(tmp_path, mm_vet):
    seen = {}

    def respond(asked, number):
        seen[prediction_of(asked)] = times = seen.get(prediction_of(asked), 0) + 1
        return "0.4" if times == 1 else "0.8"

    with serving(respond) as server:
        twice = judged_score("mm_vet", *mm_vet, *judged(server, tmp_path, "--judge-runs", 2, "--judge-concurrency", 1))
        assert len(server.asked) == 8
        # another run asks for that alone
        judged_score("mm_vet", *mm_vet, *judged(server, tmp_path, "--judge-runs", 3))
        assert len(server.asked) == 12
    assert sorted(twice["runs"]) == pytest.approx([40, 80])
    assert twice["score"] == pytest.approx(60)
    assert twice["spread"] == pytest.approx(20)


def test_what_a_file_has_is_not_asked_for(tmp_path, mm_vet):
    grades = tmp_path / "grades.json"
    held = {"v1_0": 0.9, "v1_2": 0.1, "v1_7": 1.0}
    grades.write_text(json.dumps({id: {"model": ["gpt-4"], "content": [str(g)], "score": [g]} for id, g in held.items()}))
    with serving(by_prediction) as server:
        mixed = judged_score("mm_vet", *mm_vet, *judged(server, tmp_path, "--grades", grades))
        assert sorted(map(prediction_of, server.asked)) == ["one", "unknown"]
    assert mixed["score"] == pytest.approx(100 * (0.9 + 0.5 + 0.1 + 0) / 4)
    assert mixed["judge"] == "gpt-4, judge (judge-0613)"
    assert mixed["grades"] == {"runs": 1, "from_file": 2, "from_judge": 2, "unused": 1}


def test_an_unreadable_grade_is_asked_for_again_five_times_and_then_is_missing(tmp_path, mm_vet):
    def respond(asked, number):
        return "it depends" if prediction_of(asked) == "one" else "1.0"

    with serving(respond) as server:
        with pytest.raises(ScoringError, match=r"1 of 4 grades are missing.*'v1_1': it said 'it depends'") as error:
            judged_score("mm_vet", *mm_vet, *judged(server, tmp_path))
        tries = [asked for asked in server.asked if prediction_of(asked) == "one"]
        assert [asked["temperature"] for asked in tries] == [0, 0.5, 1, 1.5, 2]
        assert len(server.asked) == 3 + 5
        assert "kept.sqlite" in str(error.value)
        # the way out that the message names
        by_hand = tmp_path / "by_hand.json"
        by_hand.write_text(json.dumps({"v1_1": {"score": [0.5]}}))
        assert judged_score("mm_vet", *mm_vet, *judged(server, tmp_path, "--grades", by_hand))["score"] == 100 * 3.5 / 4
        assert len(server.asked) == 8


@pytest.mark.parametrize("first", ["1.5", "-0.1", "nan", "", "good: 0.5", Reply(completion(None, refusal="no"))])
def test_a_grade_that_is_read_in_a_later_try_counts(tmp_path, mm_vet, first):
    def respond(asked, number):
        return first if asked["temperature"] == 0 else "0.5"

    with serving(respond) as server:
        assert judged_score("mm_vet", *mm_vet, *judged(server, tmp_path))["score"] == 50
        assert len(server.asked) == 8


def test_no_score_while_the_endpoint_fails_and_the_rest_is_not_asked_twice(tmp_path, mm_vet):
    def respond(asked, number):
        return Reply(status=400, body={"error": {"message": "too long"}}) if "unknown" in prediction_of(asked) else "1.0"

    with serving(respond) as server:
        with pytest.raises(ScoringError, match=r"1 of 4 grades are missing, the first is that of 'v1_3': HTTP 400: too long"):
            judged_score("mm_vet", *mm_vet, *judged(server, tmp_path))
        assert len(server.asked) == 4
        server.respond = lambda asked, number: "0.0"
        assert judged_score("mm_vet", *mm_vet, *judged(server, tmp_path))["score"] == 75
        assert len(server.asked) == 5


def test_nothing_is_asked_without_a_judge(mm_vet):
    with pytest.raises(ScoringError, match=r"4 of 4 grades are missing.*'v1_0'.*--grades.*--judge"):
        judged_score("mm_vet", *mm_vet)


def test_a_judge_needs_the_questions(tmp_path, mm_vet):
    with serving(by_prediction) as server:
        with pytest.raises(ScoringError, match=r"needs the question and its ground truth of 'v1_0'.*--answers"):
            judged_score("mm_vet", None, mm_vet[1], *judged(server, tmp_path))
        assert server.asked == []


def test_a_judge_where_none_is_asked(tmp_path):
    benchmark = find("pope")
    answered = [Answered(Item("1", "is it", answer="yes"), "yes")]
    for words in (("--judge", "judge"), ("--grades", tmp_path / "grades.json")):
        with pytest.raises(ScoringError, match=rf"{words[0]}.*pope.*asks no judge"):
            graded(benchmark, benchmark.rules[0], answered, judge_options(*words))
    assert graded(benchmark, benchmark.rules[0], answered, judge_options()) == (answered, {})


def test_predictions_are_no_grades(mm_vet):
    with pytest.raises(ScoringError, match=r"predictions.json: it holds no grades"):
        judged_score("mm_vet", *mm_vet, "--grades", mm_vet[1])


def test_both_assistants_of_llava_bench_are_graded(tmp_path):
    data = write_llava_bench(tmp_path / "data")
    predictions = tmp_path / "answers.jsonl"
    predictions.write_text("".join(json.dumps({"question_id": n, "text": f"answer {n}"}) + "\n" for n in range(4)))

    def respond(asked, number):
        prompt = asked["messages"][0]["content"]
        # the reference is the first assistant, and the picture is told in words
        assert re.search(r"assistant 1\]\n(It is red|A red circle|A square|Yes).*assistant 2\]\nanswer \d", prompt, re.DOTALL)
        assert "A drawing, number 00" in prompt
        model = int(re.search(r"answer (\d)", prompt)[1])
        return "a tie" if asked["temperature"] < 0.4 and model == 3 else f"8, {model + 4}\nFor it is so."

    with serving(respond) as server:
        said = judged_score("llava_bench", data, predictions, *judged(server, tmp_path))
        assert len(server.asked) == 5
    assert said["score"] == pytest.approx(100 * (4 + 5 + 6 + 7) / 32)
    assert said["by_capability"] == pytest.approx({"conv": 100 * 11 / 16, "detail": 62.5, "complex": 75})


def test_mmbench_asks_of_what_no_rule_matches(tmp_path):
    """One answer names its option, one means it, one means none of them."""
    benchmark = find("mmbench")
    choices = {"A": "a stork", "B": "a cat"}
    answered = [
        Answered(Item(str(n), "which", answer="A", choices=choices, details={"index": n, "l2": ""}), text, f"line {n}")
        for n, text in enumerate(["A.", "the white bird", "a ship"])
    ]

    def respond(asked, number):
        return " A." if "the white bird\nLetter:" in asked["messages"][0]["content"] else "E"

    for place, rule in enumerate(benchmark.rules):
        without, about = graded(benchmark, rule, answered, judge_options())
        assert about == {}
        assert [mark.value for mark in rule.mark(without)] == [1, 0, 0]
        with serving(respond) as server:
            with_judge, about = graded(benchmark, rule, answered, judge_options(*judged(server, tmp_path)))
            # by the second rule the same two are asked about, and kept
            assert len(server.asked) == (2, 0)[place]
        assert [mark.value for mark in rule.mark(with_judge)] == [1, 1, 0]
        assert [mark.read for mark in rule.mark(with_judge)] == ["A", "A", ""]
        assert about["grades"]["from_judge"] == 2


def test_an_option_is_named_once(tmp_path):
    benchmark = find("mmbench")
    with pytest.raises(ScoringError, match="--judge-runs 3"):
        graded(benchmark, benchmark.rules[0], [], judge_options("--judge", "judge", "--judge-runs", 3))


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("0.5", 0.5),
        (" 1\n", 1.0),
        ("0.3 because", 0.3),
        ("0.3\nbecause", 0.3),
        ("1.1", None),
        ("-0", 0.0),
        ("nan", None),
        ("inf", None),
        ("1/2", None),
        ("", None),
        ("half", None),
    ],
)
def test_the_first_word_is_the_grade(text, grade):
    assert correctness_of(text, Item("", "")) == grade


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("8 10\nBoth", (8, 10)),
        ("9, 6.5", (9, 6.5)),
        ("8,10", (8, 10)),
        ("8  10 ", (8, 10)),
        ("\n7 7", (7, 7)),
        ("8", None),
        ("8 9 10", None),
        ("8 11", None),
        ("-1 -1", None),
        ("nan 8", None),
        ("Assistant 1: 8", None),
        ("", None),
    ],
)
def test_two_numbers_stand_on_the_first_line(text, scores):
    assert scores_of(text, Item("", "")) == scores


@pytest.mark.parametrize(
    ("text", "letter"),
    [("A", "A"), ("(B)", "B"), ("**A**. a stork", "A"), ("E", ""), ("D", None), ("As I see it", None), ("", None), ("a", None)],
)
def test_a_judge_names_an_option_or_none_of_them(text, letter):
    assert option_of(text, Item("", "", choices={"A": "a stork", "B": "a cat", "C": "a dog"})) == letter


def test_where_e_is_an_option_another_letter_is_none_of_them():
    item = Item("", "", choices=dict.fromkeys("ABCDE", "x"))
    assert [option_of(text, item) for text in ("E", "Z", "F")] == ["E", "", None]
