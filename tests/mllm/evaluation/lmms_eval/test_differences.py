"""Where lmms-eval's rules are not ours: each difference on an answer that shows it."""

from dataclasses import dataclass
from typing import Any

import pytest

from tests.mllm.made.lmms_eval_tasks import TheirTask, at, our_figures

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (make test-lmms-eval): its rules were not compared with")

MME = {"question_id": "existence/1.jpg", "question": "Is it red?", "category": "existence"}
POPE = {"id": "1", "question_id": "1", "question": "Is there a cat?", "image_source": "COCO_1", "category": "popular"}
SEED = {"question_id": "1", "question": "what?", "answer": "A", "data_type": "image", "question_type_id": 1, "data_id": "1"}
SEED |= {"choice_a": "a", "choice_b": "b", "choice_c": "c", "choice_d": "d"}
MMSTAR = {"question": "what? Options: A: x, B: y", "answer": "B", "category": "math", "bench": "made"}
MMVP = {"Index": 1, "Question": "what?", "Options": "(a) On (b) Off", "Correct Answer": "(a)"}
SCIENCE = {"question": "what?", "choices": ["x", "y"], "answer": 0, "hint": "", "subject": "natural science", "topic": "t"}
OCR = {"dataset": "IIIT5K", "question": "what?", "question_type": "Regular Text Recognition", "answer": ["CENTRE"]}
BOX = {"question_id": "1", "question": "", "answer": ["man"], "file_name": "COCO_1.jpg", "bbox": [0.0, 0.0, 32.0, 24.0]}
SAME_TEN = [{"answer": "T-shirt.", "answer_id": place, "answer_confidence": "yes"} for place in range(1, 11)]
VQA = {
    "question_id": 1,
    "image_id": 1,
    "question": "what?",
    "answers": SAME_TEN,
    "answer_type": "other",
    "question_type": "what",
}
GQA = {"id": "1", "imageId": "n1", "question": "what?", "answer": "tshirt", "types": {"structural": "query"}}


@dataclass(frozen=True)
class Difference:
    """The same answers, scored by both.

    Args:
        theirs: task, metric, figure; ours: benchmark, rule, key, figure.
    """

    why: str
    theirs: tuple[str, str, float]
    ours: tuple[str, str, str, float]
    rows: list[dict[str, Any]]
    answers: list[str]


DIFFERENCES = (
    Difference(
        "mme: y and n are words there",
        ("mme/mme.yaml", "mme_perception_score", 200.0),
        ("mme", "official", "perception", 0.0),
        [{**MME, "answer": "Yes"}, {**MME, "answer": "No"}],
        ["y", "n"],
    ),
    Difference(
        "mme: spaces and full stops in front do not count there",
        ("mme/mme.yaml", "mme_perception_score", 200.0),
        ("mme", "official", "perception", 0.0),
        [{**MME, "answer": "Yes"}, {**MME, "answer": "No"}],
        ["...Yes", "...no"],
    ),
    Difference(
        "pope: the text has to be yes or no and nothing else there",
        ("pope/pope.yaml", "pope_accuracy", 0.0),
        ("pope", "official", "accuracy", 1.0),
        [{**POPE, "answer": "yes"}],
        ["Yes, there is."],
    ),
    Difference(
        "pope: its ratio of yes is that of the labels",
        ("pope/pope.yaml", "pope_yes_ratio", 0.5),
        ("pope", "official", "yes_ratio", 1.0),
        [{**POPE, "answer": "yes"}, {**POPE, "id": "2", "question": "Is there a dog?", "answer": "no"}],
        ["yes", "yes"],
    ),
    Difference(
        "seed_bench: small letters are letters there",
        ("seedbench/seedbench.yaml", "seed_all", 1.0),
        ("seed_bench", "letter", "accuracy", 0.0),
        [SEED],
        ["a"],
    ),
    Difference(
        "mmstar: a letter in brackets anywhere is read there",
        ("mmstar/mmstar.yaml", "average", 1.0),
        ("mmstar", "official", "accuracy", 0.0),
        [{**MMSTAR, "index": 0, "l2_category": "geometry"}],
        ["It is (B)."],
    ),
    Difference(
        "mmstar: its figure is the mean over finer categories, however many questions each has",
        ("mmstar/mmstar.yaml", "average", 0.5),
        ("mmstar", "official", "accuracy", 0.75),
        [{**MMSTAR, "index": place, "l2_category": "geometry" if place else "statistical reasoning"} for place in range(4)],
        ["A", "B", "B", "B"],
    ),
    Difference(
        "mmvp: a word that ends in a or b is a letter there",
        ("mmvp/mmvp.yaml", "mmvp_accuracy", 1.0),
        ("mmvp", "letter", "accuracy", 0.0),
        [MMVP],
        ["The camera is working"],
    ),
    Difference(
        "scienceqa: a sentence with the letter is none there",
        ("scienceqa/scienceqa_img.yaml", "exact_match", 0.0),
        ("scienceqa", "llava", "accuracy", 1.0),
        [SCIENCE],
        ["The answer is A."],
    ),
    Difference(
        "scienceqa: a small letter is one there",
        ("scienceqa/scienceqa_img.yaml", "exact_match", 1.0),
        ("scienceqa", "llava", "accuracy", 0.0),
        [SCIENCE],
        ["a"],
    ),
    Difference(
        "vqav2: what all people say is made plain there",
        ("vqav2/vqav2_val.yaml", "exact_match", 1.0),
        ("vqav2", "official", "accuracy", 0.0),
        [VQA],
        ["t shirt"],
    ),
    Difference(
        "gqa: no punctuation counts there",
        ("gqa/gqa.yaml", "exact_match", 1.0),
        ("gqa", "llava", "accuracy", 0.0),
        [GQA],
        ["t-shirt"],
    ),
    Difference(
        "ocrbench: letters as wide as Chinese ones are the same there",
        ("ocrbench/ocrbench.yaml", "ocrbench_accuracy", 0.001),
        ("ocrbench", "official", "score", 0.0),
        [OCR],
        ["\uff23\uff25\uff2e\uff34\uff32\uff25"],
    ),
    Difference(
        "refcoco: a number begins and ends with a digit there",
        ("refcoco/refcoco_bbox_rec_val.yaml", "refcoco_ACC@0.5", 0.0),
        ("refcoco", "picture", "accuracy", 1.0),
        [BOX],
        ["[0.,0.,.5,.5]"],
    ),
    Difference(
        "refcoco, the newer task: of all boxes the best counts there",
        ("refcoco_grounding/refcoco_grounding_test.yaml", "refcoco_grounding_ACC@0.5", 1.0),
        ("refcoco", "pixels", "accuracy", 0.0),
        [BOX],
        ["[40,40,60,60] or [0,0,32,24]"],
    ),
    Difference(
        "refcoco, the newer task: of two frames the better counts there",
        ("refcoco_grounding/refcoco_grounding_test.yaml", "refcoco_grounding_ACC@0.5", 1.0),
        ("refcoco", "pixels", "accuracy", 0.0),
        [BOX],
        ["[0,0,500,500]"],
    ),
)


@pytest.mark.parametrize("one", DIFFERENCES, ids=lambda one: one.why)
def test_known_differences(one, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some tasks write beside where they stand
    task, metric, there = one.theirs
    benchmark, rule, key, here = one.ours
    theirs = TheirTask(task, one.rows, tmp_path)
    assert theirs.figures(one.answers, metric)[metric] == pytest.approx(there)
    assert at(our_figures(benchmark, rule, theirs.file, one.answers), key) == here


def test_an_answer_without_a_letter_is_wrong_here_and_drawn_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    about = {"hint": "nan", "source": "made", "comment": "nan", "split": "dev", "category": "c", "L2-category": "l"}
    choices = {"A": "red", "B": "blue", "C": "green", "D": "white"}
    rows = [{"index": number, "question": f"what is {number}?", "answer": "C", **choices, **about} for number in range(1, 41)]
    answers = ["I cannot tell."] * len(rows)
    theirs = TheirTask("mmbench/mmbench_en_dev.yaml", rows, tmp_path)
    # no judge can be reached
    judge = theirs.task.aggregation()["gpt_eval_score"].__globals__["mmbench_evaluator"]
    monkeypatch.setattr(judge, "get_chat_response", lambda prompt: "Failed to obtain answer via API")
    assert 5 < theirs.figures(answers, "gpt_eval_score")["gpt_eval_score"] < 50
    ours = our_figures("mmbench", "official-2023", theirs.file, answers)
    assert (ours["circular"], ours["unmatched"]) == (0.0, 40)
