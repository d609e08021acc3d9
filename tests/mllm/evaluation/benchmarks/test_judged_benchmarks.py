"""MM-Vet and LLaVA-Bench: their files in every form, and published grades with the scores that were published for them."""

import json

import pytest

from pargo_mllm.evaluation.benchmark import Prediction, ScoringError
from pargo_mllm.evaluation.benchmarks import llava_bench, mm_vet
from tests.mllm.made.benchmark_files_judged import LLAVA_BENCH, MM_VET, write_llava_bench, write_mm_vet
from tests.mllm.made.judged_scores import judged_score

MM_VET_GRADES = {"v1_0": [1, 0.5], "v1_1": [0.5, 0.5], "v1_2": [0, 0.5], "v1_3": [0.5, 0.5]}


def write(file, value):
    file.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return file


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def grade_file(file, grades=MM_VET_GRADES):
    entries = {
        id: {"model": ["gpt-4"] * len(runs), "content": list(map(str, runs)), "score": runs} for id, runs in grades.items()
    }
    return write(file, entries)


@pytest.mark.parametrize(
    ("name", "runs"), [("1runs", [31.1927]), ("3runs", [31.2385, 30.8257, 31.2385])], ids=["one run", "three runs"]
)
@pytest.mark.parametrize("itself", [True, False], ids=["the grades themselves", "with --grades"])
def test_published_grades_of_mm_vet(shared, name, runs, itself):
    folder = shared / "golden" / "scores" / "mm_vet"
    file = folder / f"llava-v1.5-7b_gpt-4-grade-{name}.json"
    words = () if itself else ("--grades", file)
    with pytest.warns(UserWarning, match="by_capability is empty: mm-vet.json"):
        said = judged_score("mm_vet", None, file if itself else folder / "llava-v1.5-7b.json", *words)
    assert [round(run, 4) for run in said["runs"]] == runs
    assert said["score"] == pytest.approx(sum(runs) / len(runs), abs=1e-4)
    assert said["by_capability"] == {}
    assert said["judge"] == "gpt-4"
    assert said["questions"] == 218
    # the official evaluator's columns "total" and "std"
    row = (folder / f"llava-v1.5-7b_gpt-4-cap-score-{name}.csv").read_text().splitlines()[-1].split(",")
    assert (f"{said['score']:.1f}", f"{said['spread']:.1f}") == (row[7], row[8])


def test_published_reviews_of_llava_bench(shared):
    said = judged_score("llava_bench", None, shared / "golden" / "scores" / "llava_bench" / "llava-v1.5-13b-eval1.jsonl")
    assert round(said["score"], 2) == 72.83
    assert list(said["by_capability"]) == ["conv", "detail", "complex"]
    assert said["questions"] == 60


def test_questions_of_llava_s_lines(shared):
    items = mm_vet.read(shared / "golden" / "scores" / "mm_vet" / "llava-mm-vet.jsonl")
    assert (len(items), items[2].id, items[2].picture) == (218, "v1_2", "v1_1.png")
    assert items[2].question == "What is x in the equation?"
    assert {item.details["capability"] for item in items} == {()}


@pytest.mark.parametrize("form", ["json", "tsv", "parquet", "llava"])
def test_every_form_of_mm_vet_is_the_same_set(tmp_path, form):
    items = mm_vet.read(write_mm_vet(tmp_path, form))
    assert [item.id for item in items] == ["v1_0", "v1_1", "v1_2", "v1_3"]
    assert [item.question for item in items] == [question for question, _, _ in MM_VET]
    if form != "llava":
        assert [(item.answer, list(item.details["capability"])) for item in items] == [tuple(entry[1:]) for entry in MM_VET]
    check_pictures(items, [(255, 0, 0), (255, 0, 0), (0, 0, 255), (255, 0, 0)])


@pytest.mark.parametrize("form", ["jsonl", "tsv", "parquet"])
def test_every_form_of_llava_bench_is_the_same_set(tmp_path, form):
    items = llava_bench.read(write_llava_bench(tmp_path, form))
    assert [item.id for item in items] == ["0", "1", "2", "3"]
    assert [(item.part, item.question, item.answer) for item in items] == list(LLAVA_BENCH)
    assert [item.details["context"] for item in items] == [f"A drawing, number 00{number}." for number in (1, 1, 2, 3)]
    check_pictures(items, [(0, 128, 0), (0, 128, 0), (0, 0, 255), (255, 0, 0)])


def check_pictures(items, colours):
    """JPEG moves colours a little. What shows the same picture has the same key, and only that."""
    shown = [item.pictures[0]().getpixel((5, 5)) for item in items]
    assert all(abs(a - b) < 4 for one, other in zip(shown, colours, strict=True) for a, b in zip(one, other, strict=True))
    assert items[0].picture == items[1].picture
    assert items[1].picture != items[2].picture


def test_capabilities_are_averaged_over_the_questions_that_need_them(tmp_path):
    answers = write_mm_vet(tmp_path) / "mm-vet.json"
    said = judged_score("mm_vet", answers, grade_file(tmp_path / "grades.json"))
    assert said["runs"] == [50, 50]
    # rec: 0.75, 0.5 and 0.25; ocr: 0.5, 0.25 and 0.5; math: 0.25
    assert said["by_capability"] == pytest.approx({"rec": 50, "ocr": 125 / 3, "math": 25})
    assert said["by_capability_set"] == {"rec": 75, "rec_ocr": 50, "rec_ocr_math": 25, "ocr": 50}


@pytest.mark.parametrize("form", ["llava", "vlmevalkit"])
def test_peers_files_of_mm_vet(tmp_path, form):
    answers = write_mm_vet(tmp_path) / "mm-vet.json"
    if form == "llava":
        records = [{"question_id": n, "prompt": MM_VET[n][0], "text": "it is", "model_id": "m"} for n in range(4)]
        said = judged_score(
            "mm_vet", answers, write(tmp_path / "a.jsonl", lines(records)), "--grades", grade_file(tmp_path / "g")
        )
        assert said["score"] == 50
    else:
        rows = ["index\tquestion\tanswer\tcategory\tprediction\tscore"]
        rows += [f"{n}\t{q}\t{a}\t{','.join(c)}\tit is\t{n / 4}" for n, (q, a, c) in enumerate(MM_VET)]
        said = judged_score("mm_vet", None, write(tmp_path / "MMVet_score.tsv", "\n".join(rows)))
        assert said["score"] == pytest.approx(100 * (0 + 0.25 + 0.5 + 0.75) / 4)
        assert said["by_capability"]["math"] == 50


def test_a_sheet_of_two_scores(tmp_path):
    rows = ["index\tcategory\tprediction\tgpt4_score\tscore", "0\tconv\tyes\t8\t4", "1\tdetail\tno\t10\t8"]
    said = judged_score("llava_bench", None, write(tmp_path / "LLaVABench_score.tsv", "\n".join(rows)))
    assert said["score"] == pytest.approx(100 * 12 / 18)
    assert said["by_capability"] == {"conv": 50, "detail": 80}


def review(number, pair, category="conv"):
    return {"question_id": number, "category": f"llava_bench_{category}", "tuple": pair, "content": "…"}


@pytest.mark.parametrize("missing", [[-1, -1], None, [8, None]])
def test_a_review_that_failed_is_missing(tmp_path, missing):
    """LLaVA writes -1 where its judge's words could not be read."""
    file = write(tmp_path / "reviews.jsonl", lines([review(0, [8, 8]), review(1, missing)]))
    with pytest.raises(ScoringError, match=r"line 2: 1 of 2 grades are missing, the first is that of '1'"):
        judged_score("llava_bench", None, file)


def test_a_run_that_lacks_a_grade_is_no_run(tmp_path):
    file = grade_file(tmp_path / "grades.json", {**MM_VET_GRADES, "v1_2": [0.5]})
    with pytest.raises(ScoringError, match=r"1 of 8 grades are missing, the first is that of 'v1_2' in run 2"):
        judged_score("mm_vet", None, file)


def test_a_zero_beside_words_is_pointed_at(tmp_path):
    """The official evaluator writes 0 where five tries gave no number; its published scores count it."""
    entries = {
        "v1_0": {"model": ["gpt-4"], "content": ["The"], "score": [0.0]},
        "v1_1": {"model": ["gpt-4"], "content": ["0.0"], "score": [0.0]},
        "v1_2": {"model": ["gpt-4"], "content": ["1.0"], "score": [1.0]},
    }
    with pytest.warns(UserWarning, match=r"entry 'v1_0': 1 grades of 0 stand beside words"):
        said = judged_score("mm_vet", None, write(tmp_path / "grades.json", entries))
    assert said["score"] == pytest.approx(100 / 3)


@pytest.mark.parametrize("score", [1.5, -0.5, "high", True, [[1]], {"a": 1}, float("inf")], ids=str)
def test_a_grade_that_is_none_is_refused_with_its_place(tmp_path, score):
    score = score if isinstance(score, list) else [score]
    file = write(tmp_path / "grades.json", {"v1_0": {"score": [1]}, "v1_1": {"score": score}})
    with pytest.raises(ScoringError, match=r"grades.json, entry 'v1_1': the grade is .*from 0 to 1"):
        judged_score("mm_vet", None, file)


@pytest.mark.parametrize(
    ("pair", "why"), [([8], "not two"), ("8 10", "not two"), ([8, 11], "from 0 to 10"), ([8, "x"], "from 0")]
)
def test_a_review_that_is_none_is_refused_with_its_line(tmp_path, pair, why):
    file = write(tmp_path / "reviews.jsonl", lines([review(0, [8, 8]), review(1, pair)]))
    with pytest.raises(ScoringError, match=rf"line 2: .*{why}"):
        judged_score("llava_bench", None, file)


def test_a_review_that_comes_twice_is_refused(tmp_path):
    file = write(tmp_path / "reviews.jsonl", lines([review(0, [8, 8]), review(0, [8, 9])]))
    with pytest.raises(ScoringError, match=r"line 2: .*'0' comes twice"):
        judged_score("llava_bench", None, file)


def test_a_reference_without_any_score_is_refused(tmp_path):
    with pytest.raises(ScoringError, match="0 everywhere"):
        judged_score("llava_bench", None, write(tmp_path / "reviews.jsonl", lines([review(0, [0, 8])])))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "null",
        "3",
        '"text"',
        '{"v1_0": null}',
        '{"v1_0": ["a"]}',
        '{"v1_0": {"capability": 3}}',
        "[" * 9999,
        '{"a":',
    ],
)
@pytest.mark.parametrize("name", ["mm_vet", "llava_bench"])
def test_hostile_files_are_refused_and_never_crash(tmp_path, name, content):
    file = write(tmp_path / "x.json", content)
    for answers in (None, file):
        with pytest.raises(ScoringError, match=r"x\.json"):
            judged_score(name, answers, file)


def test_texts_are_no_questions(tmp_path):
    with pytest.raises(ScoringError, match="it has no 'question'"):
        mm_vet.read(write(tmp_path / "predictions.json", {"v1_0": "red"}))


def test_submissions_are_read_again(tmp_path):
    said = [Prediction(text=text, where="", id=id, question="which") for id, text in (("v1_0", "red\ttop"), ("v1_1", "Löwe\n"))]
    again = mm_vet.predictions(mm_vet.submission(said, tmp_path))
    assert [(one.id, one.text) for one in again] == [("v1_0", "red\ttop"), ("v1_1", "Löwe\n")]
    assert json.loads((tmp_path / "mm_vet.json").read_text()) == {"v1_0": "red\ttop", "v1_1": "Löwe\n"}
    said = [Prediction(text=text, where="", id=id, question="which") for id, text in (("0", "red\n"), ("1", ""))]
    again = llava_bench.predictions(llava_bench.ALL[0].submission(said, tmp_path))
    assert [(one.id, one.text, one.question) for one in again] == [("0", "red\n", "which"), ("1", "", "which")]
