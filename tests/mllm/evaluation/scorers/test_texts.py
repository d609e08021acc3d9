"""What answers in words are worth, against the official code's own results and against sums by hand."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pargo_mllm.evaluation.scorers import vqa
from pargo_mllm.evaluation.scorers.texts import anls, close, edit_distance, holds


def test_every_text_is_normalised_as_the_official_code_does(shared):
    kept = json.loads((shared / "golden/scores/vqa/normalised_even.json").read_text())
    assert {one["raw"]: vqa.normalised(one["raw"]) for one in kept} == {one["raw"]: one["normalised"] for one in kept}


def test_every_answer_is_worth_what_the_official_code_says(shared):
    kept = json.loads((shared / "golden/scores/vqa/scored_items_even.json").read_text())["items"]
    ours = [100 * vqa.accuracy(one["prediction"], one["answers"]) for one in kept]
    assert ours == pytest.approx([one["accuracy_percent"] for one in kept], abs=1e-9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # the official table's own oddities: this one loses its apostrophe, these have none to gain
        ("somebody'd", "somebodyd"),
        ("Im Ive id've", "im ive id've"),
        ("yall'd've couldn'tve couldnt've", "y'all'd've couldn't've couldn't've"),
        # a comma between digits lets every mark go, without a space in its place
        ("1,000-2", "10002"),
        ("a-b", "b"),
        ("a - b", "b"),
        # a dot stays where a digit follows
        ("3.5 p.m. 4.", "3.5 pm 4"),
        # 32 dots are taken out, and no more: a flag stands where their number belongs
        ("." * 40, "." * 8),
        ("café NAÏVE", "café naïve"),
    ],
)
def test_oddities_of_the_official_normalisation(text, expected):
    assert vqa.normalised(text) == expected


def test_unanimous_answers_are_compared_letter_by_letter_unless_always_is_asked_for():
    assert vqa.accuracy("Yes", ["yes"] * 10) == 0
    assert vqa.accuracy(" yes\n", ["yes"] * 10) == 1
    assert vqa.accuracy("Yes", ["yes"] * 10, always=True) == 1
    # of one who differs all are normalised
    assert vqa.accuracy("Yes.", ["yes"] * 9 + ["no"]) == 1


@pytest.mark.parametrize(("same", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_how_many_people_make_an_answer_right(same, expected):
    answers = ["red"] * same + [f"other{n}" for n in range(10 - same)]
    assert vqa.accuracy("red", answers) == pytest.approx(expected, abs=1e-12)


@given(st.text(max_size=60), st.lists(st.text(max_size=20), min_size=1, max_size=10), st.booleans())
def test_any_texts_have_an_accuracy(text, answers, always):
    assert 0 <= vqa.accuracy(text, answers, always) <= 1
    assert 0 <= anls(text, answers) <= 1
    holds(text, answers)
    close(text, answers[0])


def test_textvqa_takes_commas_out_first_and_the_genitive_apart():
    assert vqa.evalai_normalised("Levi's, 1,000?") == "levi 's 1000"
    assert vqa.evalai_normalised("The\tTwo") == "2"


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("14", "14", True),
        ("14.7", "14", True),
        ("14.71", "14", False),
        ("13.3", "14", True),
        ("22.5%", "0.225", True),
        ("22.5", "22.5%", False),
        ("0.5%", "0.5", False),
        # of nothing there are no 5 %: it is compared as text
        ("0", "0", True),
        ("0.0", "0", False),
        ("Food, drinks", "food, Drinks", True),
        ("food", "foods", False),
        ("1,000", "1000", False),
        ("nan", "1", False),
        ("nan", "NaN", False),
        ("inf", "1", False),
        ("1e400", "5", False),
        ("-5", "5", False),
        ("", "5", False),
        ("%", "5", False),
        ("5 ", "5", True),
    ],
)
def test_numbers_within_five_percent(text, answer, right):
    assert close(text, answer) is right


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("1/8/93", ["1/8/93", "other"], 1),
        (" 1/8/93 ", ["1/8/93"], 1),
        # one letter of eight
        ("R. Smitt", ["R. Smith"], 1 - 1 / 8),
        ("R. SMITH", ["r. smith"], 1),
        # half of the letters are enough, less are not
        ("ab", ["abcd"], 0.5),
        ("a", ["abcd"], 0),
        ("", ["abcd"], 0),
        ("", [""], 1),
        # repeated spaces do not count in the distance, but in the length
        ("a  x", ["a y"], 1 - 1 / 4),
    ],
)
def test_anls_by_hand(text, answers, expected):
    assert anls(text, answers) == pytest.approx(expected, abs=1e-12)


@given(st.text(alphabet="abc", max_size=8), st.text(alphabet="abc", max_size=8), st.text(alphabet="abc", max_size=8))
def test_the_edit_distance_is_a_distance(one, two, three):
    assert edit_distance(one, two) == edit_distance(two, one)
    assert (edit_distance(one, two) == 0) == (one == two)
    assert edit_distance(one, three) <= edit_distance(one, two) + edit_distance(two, three)
    assert abs(len(one) - len(two)) <= edit_distance(one, two) <= max(len(one), len(two))


def test_the_edit_distance_by_hand():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("flaw", "lawn") == 2
    assert edit_distance("", "abc") == 3


def test_parts_of_texts():
    assert holds("The word is PRIVATE\nhere", ["private here"])
    assert not holds("", ["private"])
    assert not holds("privat", ["private"])
    # in formulas spaces do not count and the case does
    assert holds("so \\frac{1}{X} it is", ["\\frac { 1 } { X }"], exact=True)
    assert not holds("\\frac{1}{x}", ["\\frac { 1 } { X }"], exact=True)
