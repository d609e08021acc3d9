"""The same answers scored by lmms-eval's own tasks and by ours: the same figures where the rules are the same."""

import random
import shutil
from dataclasses import dataclass
from typing import Any

import pytest

from tests.mllm.made import lmms_eval_rows as made
from tests.mllm.made.lmms_eval_tasks import TheirTask, at, our_figures

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (make test-lmms-eval): its scores were not compared with")

ROWS = 160
YES_NO = made.picked("Yes", "No", "yes.", "No, not there", "Yes, it is", "Not sure", "I think yes", "know", "", "nay", "Maybe")
BEGUN = tuple(f"{letter}{behind}" for letter in made.LETTERS for behind in ("", ". a dog", ") it", ": x", "pple"))
STATED = ("A", "B", "C. choice 2", "A. choice 0", "B. ", "Beautiful", "choice 1", "(A)", "")
BRACKETS = ("(a)", "(b)", "A", "b", "(a) Open", "(b) Closed.", "A.", "The answer is (b)", "")


@dataclass(frozen=True)
class Pair:
    """One task of theirs beside one rule of ours.

    Args:
        metrics: their names -> where the figure stands in our result.
        row: number, random source -> a row as the hub has it.
        said: row, random source -> an answer.
        unit: how much larger their figures are.
        whole: their figures where every answer is right; 1 each where it is empty.
    """

    task: str
    benchmark: str
    rule: str
    metrics: dict[str, str]
    row: Any
    said: Any
    unit: float = 1
    whole: tuple[float, ...] = ()

    def __str__(self):
        return f"{self.benchmark}-{self.rule}"


MME = {"mme_perception_score": "perception", "mme_cognition_score": "cognition"}
POPE = {f"pope_{name}": name for name in ("accuracy", "precision", "recall")} | {"pope_f1_score": "f1"}
MMVP = {"mmvp_accuracy": "accuracy", "mmvp_pair_accuracy": "pair_accuracy"}
SEED = {"seed_image": "accuracy", "seed_all": "accuracy"}
EXACT = {"exact_match": "accuracy"}
CHARTS = {
    "relaxed_overall": "accuracy",
    "relaxed_human_split": "parts.human",
    "relaxed_augmented_split": "parts.augmented",
}
SAME = (
    Pair("mme/mme.yaml", "mme", "official", MME, made.mme_row, YES_NO, whole=(600, 400)),
    Pair("pope/pope.yaml", "pope", "official", POPE, made.pope_row, made.picked("Yes", "No", "yes", "no")),
    Pair(
        "seedbench/seedbench.yaml",
        "seed_bench",
        "letter",
        SEED,
        made.seed_row,
        made.picked(*BEGUN, "(A)", "The answer is B", " C", ""),
    ),
    Pair(
        "mmbench/mmbench_en_dev.yaml",
        "mmbench",
        "official-2023",
        {"gpt_eval_score": "circular"},
        made.mmbench_row,
        made.mmbench_said,
        unit=100,
        whole=(100,),
    ),
    Pair("mmvp/mmvp.yaml", "mmvp", "letter", MMVP, made.mmvp_row, made.picked(*BRACKETS)),
    Pair("vqav2/vqav2_val.yaml", "vqav2", "always", EXACT, made.vqav2_row, made.vqav2_said),
    Pair("textvqa/textvqa_val.yaml", "textvqa", "official", EXACT, made.textvqa_row, made.textvqa_said),
    Pair(
        "gqa/gqa.yaml",
        "gqa",
        "llava",
        EXACT,
        made.gqa_row,
        made.picked("yes", "Yes.", "NO", "red", "Left side.", "left", "a red", ""),
    ),
    Pair("scienceqa/scienceqa_img.yaml", "scienceqa", "llava", EXACT, made.scienceqa_row, made.picked(*STATED)),
    Pair(
        "ocrbench/ocrbench.yaml",
        "ocrbench",
        "official",
        {"ocrbench_accuracy": "score"},
        made.ocrbench_row,
        made.ocrbench_said,
        # of the thousand questions that there are
        unit=1 / 1000,
        whole=(ROWS / 1000,),
    ),
    Pair("chartqa/chartqa.yaml", "chartqa", "relaxed", CHARTS, made.chartqa_row, made.chartqa_said),
    Pair("docvqa/docvqa_val.yaml", "docvqa", "anls-0.5", {"anls": "anls"}, made.docvqa_row, made.docvqa_said),
    *(
        Pair(
            f"{name}/{name}_bbox_rec_val.yaml",
            name,
            "picture",
            {"refcoco_ACC@0.5": "accuracy"},
            made.refcoco_row,
            made.refcoco_said,
        )
        for name in ("refcoco", "refcoco+", "refcocog")
    ),
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Some tasks write beside where they stand."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("pair", SAME, ids=str)
def test_same_rules_give_the_same_figures(pair, tmp_path):
    draw = random.Random(str(pair))
    rows = [pair.row(number, draw) for number in range(ROWS)]
    answers = [pair.said(row, draw) for row in rows]
    theirs = TheirTask(pair.task, rows, tmp_path)
    ours = our_figures(pair.benchmark, pair.rule, theirs.file, answers)
    found = theirs.figures(answers, *pair.metrics)
    assert {name: at(ours, path) * pair.unit for name, path in pair.metrics.items()} == pytest.approx(found, abs=1e-12)
    # neither none of them nor all
    whole = pair.whole or (1,) * len(found)
    assert all(0.05 < value / most < 0.95 for value, most in zip(found.values(), whole, strict=True)), found


@pytest.mark.parametrize("rule", ["ptb", "ptb-java"])
def test_captions_have_the_same_figures(rule, tmp_path):
    if shutil.which("java") is None:
        pytest.skip("there is no java, which lmms-eval cuts captions with: its scores of them were not compared with")
    draw = random.Random(7)
    rows = [made.caption_row(number, draw) for number in range(40)]
    answers = [draw.choice((row["answer"][0].replace("A ", "The ", 1), "A man's dog isn't here.", "")) for row in rows]
    theirs = TheirTask("coco_cap/coco2014_cap_val.yaml", rows, tmp_path)
    names = {"coco_CIDEr": "cider", "coco_ROUGE_L": "rouge_l", "coco_Bleu_1": "bleu1", "coco_Bleu_4": "bleu4"}
    ours = our_figures("caption", rule, theirs.file, answers)
    found = theirs.figures(answers, *names)
    assert {name: ours[key] for name, key in names.items()} == pytest.approx(found, abs=1e-12)
    assert 0.1 < found["coco_CIDEr"] < 9


def test_the_same_grades_of_mm_vet_give_the_same_score(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none: nobody is asked")
    draw = random.Random(8)
    needed = ("rec", "ocr,math", "rec,know,gen")
    about = {"question": "what?", "answer": "x"}
    rows = [{"question_id": f"v1_{number}", "capability": needed[number % 3], **about} for number in range(50)]
    grades = [draw.randrange(11) / 10 for _ in rows]
    theirs = TheirTask("mmvet/mmvet.yaml", rows, tmp_path)
    needs = [document["capability"] for document in theirs.documents]
    graded = [{"score": grade, "capabilities": names} for grade, names in zip(grades, needs, strict=True)]
    ours = our_figures("mm_vet", "judge", theirs.file, ["it"] * len(rows), grades)
    assert ours["score"] == pytest.approx(theirs.total("gpt_eval_score", graded), abs=1e-9)


def test_the_same_grades_of_llava_bench_give_the_same_score(tmp_path):
    draw = random.Random(9)
    kinds = ("conv", "detail", "complex")
    about = {"question": "what?", "gpt_answer": "x", "caption": "y"}
    rows = [{"question_id": number, "category": kinds[number % 3], **about} for number in range(60)]
    grades = [(draw.randint(6, 10), draw.randint(1, 10)) for _ in rows]
    theirs = TheirTask("llava-in-the-wild/llava-in-the-wild.yaml", rows, tmp_path)
    ours = our_figures("llava_bench", "judge", theirs.file, ["it"] * len(rows), grades)
    pairs = [{"scores": list(pair)} for pair in grades]
    # theirs has one decimal
    assert round(ours["score"], 1) == theirs.total("gpt_eval_llava_all", pairs)
    for place, kind in enumerate(kinds):
        assert round(ours["by_capability"][kind], 1) == theirs.total(f"gpt_eval_llava_{kind}", pairs[place::3])
