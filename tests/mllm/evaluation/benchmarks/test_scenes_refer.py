"""Where things of scenes are, scored by how much boxes overlap: what counts, and that predictions can be scored again."""

import json
from pathlib import Path

import pytest

from pargo_mllm.evaluation.benchmark import Prediction, ScoringError
from pargo_mllm.evaluation.benchmarks import find
from tests.mllm.made.command_line import ended

BENCHMARK = find("scenes_refer")


def moved(answer, by):
    """The box so many cells farther to the right, or left at the border, with the spaces that a tokenizer of words leaves."""
    first, last = answer.split(",")
    by = by if ord(last[0]) + by <= ord("H") else -by
    return f"{chr(ord(first[0]) + by)}{first[1]} , {chr(ord(last[0]) + by)}{last[1]}"


def scored(capsys, folder, say):
    items = BENCHMARK.read(Path("scenes:held_out=8"))
    said = [Prediction(say(item), f"line {place}", item=item) for place, item in enumerate(items)]
    file = BENCHMARK.submission(said, folder)
    done = ended(capsys, "score", file, "--benchmark", "scenes_refer", "--json")
    return items, json.loads(done.printed)


def test_right_boxes_are_right_and_a_cell_beside_is_wrong_for_what_is_small(tmp_path, capsys):
    items, result = scored(capsys, tmp_path, lambda item: moved(item.answer, 0))
    assert (result["accuracy"], result["unread"], result["questions"]) == (1, 0, len(items))
    assert set(result["parts"]) == {"photograph", "big", "word", "shape", "digit"}
    _, result = scored(capsys, tmp_path, lambda item: item.answer if item.answer == "A1,H8" else moved(item.answer, 1))
    # of what is n cells wide n - 1 columns of n + 1 are shared: 3 of 5, 2 of 4, none; a whole picture cannot move
    assert {part: result["parts"][part] for part in ("big", "photograph", "word", "shape", "digit")} == {
        "big": 1,
        "photograph": 1,
        "word": 0,
        "shape": 0,
        "digit": 0,
    }


def test_what_is_no_box_is_wrong_and_counted(tmp_path, capsys):
    items, result = scored(capsys, tmp_path, lambda item: "D6" if item.part == "digit" else item.answer)
    digits = sum(item.part == "digit" for item in items)
    assert result["unread"] == digits > 0 == result["parts"]["digit"]
    assert result["accuracy"] == pytest.approx(1 - digits / len(items))


def test_a_right_answer_that_is_no_box_is_refused(tmp_path, capsys):
    line = {"id": "0-0", "picture": "a", "kind": "big", "question": "q", "answer": "D6", "prediction": "A1,B2"}
    (tmp_path / "said.jsonl").write_text(json.dumps(line))
    done = ended(capsys, "score", tmp_path / "said.jsonl", "--benchmark", "scenes_refer")
    assert done.status == 2
    assert "the right answer 'D6' is no box, as A3,D6 is" in done.said


def test_boxes_are_not_asked_of_the_benchmark_of_words():
    with pytest.raises(ScoringError, match="--benchmark scenes_refer"):
        find("scenes").read(Path("scenes:boxes=1"))


def test_the_best_constant_box_is_what_can_be_had_without_looking(tmp_path, capsys):
    rows = [("big", "A1,D4"), ("big", "B1,E4"), ("big", "E5,H8"), ("shape", "C3,C3"), ("shape", "C4,C4"), ("shape", "F1,F1")]
    lines = [
        {"id": str(place), "picture": "a", "kind": kind, "question": "q", "answer": box, "prediction": box}
        for place, (kind, box) in enumerate(rows)
    ]
    (tmp_path / "said.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = ended(capsys, "score", tmp_path / "said.jsonl", "--benchmark", "scenes_refer", "--json")
    result = json.loads(done.printed)
    # two of the big ones overlap by 12 of 20 cells; C3,C4 is half right about two of the small ones
    assert (result["accuracy"], result["constant"]) == (1, pytest.approx(4 / 6))
