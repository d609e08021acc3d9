"""Errors of the benchmarks' own figures: the formula where a figure is a mean, the spread of many draws where it is none."""

import math
import random

import numpy as np
import pytest

from pargo_mllm.evaluation.benchmark import accuracy, by_part, mean
from pargo_mllm.evaluation.reporting.uncertainty import differences, estimates, mean_figures
from pargo_mllm.reports.statistics import codes, mean_estimate
from tests.mllm.made.evaluated import both_right, drawn_marks, marked, marks_of


def f1(marks):
    """POPE's: "yes" is said where the value and the right answer agree."""
    says = [(mark.item.answer == "yes") == (mark.value == 1) for mark in marks]
    right = sum(said and mark.item.answer == "yes" for said, mark in zip(says, marks, strict=True))
    return {"f1": 2 * right / (sum(says) + sum(mark.item.answer == "yes" for mark in marks))}


def test_a_mean_has_the_formulas_error_whatever_it_is_published_as():
    marks = drawn_marks()
    clusters = codes([mark.item.picture for mark in marks])
    expected = mean_estimate([mark.value for mark in marks], clusters)
    share = estimates(marks, accuracy, ["accuracy"])
    assert share[("accuracy",)].error == pytest.approx(expected.error)
    assert share[("accuracy",)].how == "mean"
    points = estimates(marks, lambda kept: {"score": 100 * mean(mark.value for mark in kept)}, ["score"])
    assert points[("score",)].error == pytest.approx(100 * expected.error)
    assert points[("score",)].naive == pytest.approx(100 * expected.naive)


def test_a_part_is_judged_by_its_own_questions():
    marks = drawn_marks(each_picture=4)
    found = estimates(marks, accuracy, ["accuracy"])
    for part in ("left", "right"):
        own = [mark for mark in marks if mark.item.part == part]
        alone = estimates(own, accuracy, ["accuracy"])[("accuracy",)]
        assert found[("parts", part)].error == pytest.approx(alone.error)
        assert found[("parts", part)].questions == len(own)


def test_errors_of_points_and_of_f1_are_the_spread_of_many_draws():
    """MME's points and POPE's F1 of 800 draws of 60 pictures each."""
    for figures, name in ((both_right, "points"), (f1, "f1")):
        seen, errors = [], []
        for seed in range(800):
            marks = drawn_marks(seed, pictures=60, each_picture=2, parts=("",))
            marks = [marked(m.value, m.item.id, m.item.picture, answer="no" if i % 2 else "yes") for i, m in enumerate(marks)]
            seen.append(figures(marks)[name])
            if seed < 60:
                errors.append(estimates(marks, figures, [name])[(name,)])
        assert {one.how for one in errors} == {"jackknife"}
        assert math.sqrt(np.mean([one.error**2 for one in errors])) == pytest.approx(np.std(seen), rel=0.1)
        # every question for itself: no sense where a picture's questions count together, too small where they are alike
        assert all(one.naive is None if name == "points" else one.naive < one.error for one in errors)


def test_parts_of_points_are_left_out_by_their_own_pictures():
    """A jackknife over all pictures gives a part the error that it has alone."""
    marks = [mark for part in "ab" for mark in drawn_marks(ord(part), 30, each_picture=2, parts=(part,))]
    marks = [marked(m.value, f"{m.item.part}{m.item.id}", m.item.part + m.item.picture, m.item.part) for m in marks]

    def figures(kept):
        points = {part: both_right([m for m in kept if m.item.part == part])["points"] for part in "ab"}
        return {"perception": sum(points.values()), "subtasks": points}

    found = estimates(marks, figures, ["perception"])
    for part in "ab":
        alone = estimates([m for m in marks if m.item.part == part], both_right, ["points"])[("points",)]
        assert found[("subtasks", part)].error == pytest.approx(alone.error)
    # parts of other pictures are independent: their variances add
    added = math.hypot(*(found[("subtasks", part)].error for part in "ab"))
    assert found[("perception",)].error == pytest.approx(added, rel=0.02)


def test_what_is_counted_together_is_left_out_together():
    """Pairs of pictures that count if both are right: 1, 1, 0 of three pairs."""
    marks = [marked(v, str(i), f"picture {i}", details={"pair": i // 2}) for i, v in enumerate([1, 1, 1, 1, 1, 0])]

    def pairs(kept):
        groups = {}
        for mark in kept:
            groups.setdefault(mark.item.details["pair"], []).append(mark.value)
        return {"pairs": mean(float(all(values)) for values in groups.values())}

    found = estimates(marks, pairs, ["pairs"], lambda item: f"pair {item.details['pair']}")[("pairs",)]
    assert (found.clusters, found.naive) == (3, None)
    assert found.error == pytest.approx(np.std([1, 1, 0], ddof=1) / math.sqrt(3))


def test_a_part_of_one_picture_has_no_error():
    marks = marks_of([1, 0, 1, 0, 1], ["a", "a", "b", "b", "c"], ["x", "x", "y", "y", "z"])

    def figures(kept):
        return {"points": 2 * mean(m.value for m in kept), "subtasks": {k: 2 * v for k, v in by_part(kept).items()}}

    found = estimates(marks, figures, ["points"])
    assert found[("points",)].error is not None
    assert [found[("subtasks", part)].error for part in "xyz"] == [None] * 3


def test_a_difference_is_that_of_the_paired_questions():
    """Values by hand: gains 1, 0, 0, -1, 1 on pictures a a b b c."""
    pictures = list("aabbc")
    pairs = list(zip(marks_of([0, 1, 1, 1, 0], pictures), marks_of([1, 1, 1, 0, 1], pictures), strict=True))
    found, before, after = differences(pairs, accuracy, ["accuracy"])
    expected = mean_estimate([1, 0, 0, -1, 1], codes(pictures))
    assert (before[("accuracy",)], after[("accuracy",)]) == (0.6, 0.8)
    assert found[("accuracy",)].value == pytest.approx(0.2)
    assert found[("accuracy",)].error == pytest.approx(expected.error)


def test_pairing_by_question_tells_more_than_two_runs_apart():
    """Two models that fail on the same pictures: the paired error is far below that of two unrelated ones; both are right."""
    gains, paired, single = [], [], []
    for seed in range(500):
        first = drawn_marks(seed, pictures=50)
        rng = random.Random(f"second {seed}")
        second = [marked(m.value if rng.random() < 0.9 else 1.0, m.item.id, m.item.picture, m.item.part) for m in first]
        gains.append(mean(m.value for m in second) - mean(m.value for m in first))
        if seed < 100:
            found, *_ = differences(list(zip(first, second, strict=True)), accuracy, ["accuracy"])
            paired.append(found[("accuracy",)].error)
            single.append(estimates(first, accuracy, ["accuracy"])[("accuracy",)].error)
    assert math.sqrt(np.mean(np.square(paired))) == pytest.approx(np.std(gains), rel=0.1)
    assert np.mean(paired) < np.mean(single) / 2


def test_points_have_a_paired_difference_too():
    gains, errors = [], []
    for seed in range(400):
        first, second = drawn_marks(seed, 50, each_picture=2), drawn_marks(seed + 10_000, 50, each_picture=2, rate=0.7)
        gains.append(both_right(second)["points"] - both_right(first)["points"])
        if seed < 60:
            found, *_ = differences(list(zip(first, second, strict=True)), both_right, ["points"])
            errors.append(found[("points",)].error)
    assert math.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(gains), rel=0.12)


def test_what_cannot_be_computed_again_stands_in_only_as_a_mean():
    marks = drawn_marks()
    expected = estimates(marks, accuracy, ["accuracy"])
    told = accuracy(marks)
    result = {"cider": 10 * told["accuracy"], "bleu4": 0.123, "parts": told["parts"]}
    figures = mean_figures(marks, result, ["cider", "bleu4"])
    assert figures(marks[:3]) == {"cider": pytest.approx(10 * mean(m.value for m in marks[:3])), "parts": by_part(marks[:3])}
    found = estimates(marks, figures, ["cider", "bleu4"])
    assert found[("cider",)].error == pytest.approx(10 * expected[("accuracy",)].error)
    assert found[("parts", "left")].error == pytest.approx(expected[("parts", "left")].error)
    assert ("bleu4",) not in found
