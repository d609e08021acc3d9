"""Letters read out of answers: what the published code gives, worked out by hand."""

import math

import pytest

from pargo_mllm.evaluation.benchmark import Answered, Item, ScoringError
from pargo_mllm.evaluation.scorers import letters

CHOICES = {"A": "teddy bear", "B": "rabbit", "C": "cat", "D": "dog"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("  B\n", "B"),
        ("The answer is B", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("(C).", "C"),
        ("D) dog", "D"),
        ("Answer:B", None),
        (":B", "B"),
        # up to three tokens an A is a letter
        ("A person", "A"),
        # of more it may be an article
        ("A person is here", None),
        ("A cat is here", "C"),
        ("A. person is here", "A"),
        # no letter of its own
        ("Apple", None),
        ("Banana Dance", None),
        ("b", None),
        ("no idea", None),
        ("know", None),
        ("", None),
        ("A or B", None),
        ("A. or B.", None),
        # one form after the other: with a full stop there is B alone
        ("(A) and B.", "B"),
        ("I see a CAT there", "C"),
        ("a cat and a dog", None),
        # five letters are looked for, however many choices there are
        ("E", "E"),
        ("Failed to obtain answer via API B", None),
    ],
)
def test_the_rule_of_2023(text, letter):
    assert letters.official_2023(text, CHOICES) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("**B**", "B"),
        ("The answer is (B).", "B"),
        ("{B}", "B"),
        ("A person", "A"),
        ("A person is standing over there", None),
        # four tokens from the end, and five
        ("B is my choice", "B"),
        ("B is my choice here", None),
        ("It is A or B, and the answer is C", "C"),
        ("The correct answer is **B**, for it has long ears and a short tail as well", "B"),
        ("the answer is dogs", "D"),
        ("I see a CAT", "C"),
        ("I see a cat, and that is all that there is to be seen in it", None),
        ("Banana", None),
        ("no idea", None),
        ("know", None),
        ("", None),
        ("E", None),
        ("Z", "Z"),
        ("Cannot determine the answer from this, perhaps B", "Z"),
        ("Failed to obtain answer via API", None),
    ],
)
def test_vlmevalkits_rule_of_2026(text, letter):
    assert letters.vlmevalkit_2026(text, CHOICES) == letter


@pytest.mark.parametrize("read", [letters.official_2023, letters.vlmevalkit_2026])
@pytest.mark.parametrize("blank", ["", " ", "\t"])
def test_a_blank_choice_matches_nothing(read, blank):
    choices = {"A": "teddy bear", "B": "rabbit", "C": blank, "D": blank}
    assert read("what is\t it ", choices) is None
    assert read("my rabbit \t", choices) == "B"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        (" B. rabbit", "B"),
        ("A person", "A"),
        ("Apple", "A"),
        ("b", None),
        ("(A)", None),
        ("The answer is A", None),
        ("no idea", None),
        ("E", None),
        ("", None),
        ("\n", None),
    ],
)
def test_the_first_character(text, letter):
    assert letters.first_character(text, CHOICES) == letter
    assert letters.first_character(text, {}) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        (" A\n", None),
        ("A ", None),
        ("A. teddy bear", "A"),
        ("A. ", "A"),
        ("A\nteddy bear", None),
        ("A.", None),
        ("A) teddy bear", None),
        ("A person", None),
        (" A. teddy bear", None),
        ("So: The answer is B.", "B"),
        # one of them counts, with a character behind it
        ("The answer is A, no: The answer is B.", None),
        ("The answer is B", None),
        ("The answer is B\n", None),
        ("The answer is Z.", None),
        ("The answer is Banana", "B"),
        ("the answer is B", None),
        ("no idea", None),
        ("", None),
        ("FAILED", None),
    ],
)
def test_llavas_rule_for_scienceqa(text, letter):
    assert letters.llava_scienceqa(text, CHOICES) == letter


def test_llavas_rule_knows_the_letters_of_the_choices():
    assert letters.llava_scienceqa("E", CHOICES) is None
    assert letters.llava_scienceqa("E", {}) == "E"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("a", "A"),
        ("(b) rabbit", "B"),
        ("Option C", "C"),
        ("The answer is D.", "D"),
        ("the answer is: D", None),
        ("A person", "A"),
        ("know", None),
        ("", None),
        ("(", None),
        ("option ", None),
    ],
)
def test_mmstars_rule(text, letter):
    assert letters.mmstar_official(text, CHOICES) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("(b)", "B"),
        ("(b) Closed", "B"),
        ("b.", "B"),
        ("B", "B"),
        ("Closed", "B"),
        ("(a) or (b)", None),
        ("(c)", None),
        ("absent", None),
        ("", None),
    ],
)
def test_letters_in_brackets(text, letter):
    assert letters.letter_in_brackets(text, {"A": "Open", "B": "Closed"}) == letter


def test_the_choice_itself_goes_before_what_it_contains():
    choices = {"A": "one", "B": "stone", "C": "B"}
    # "stone" contains "one", so that by text alone nothing matches
    assert letters.choice_itself("stone", choices) == "B"
    assert letters.choice_itself("B", choices) == "C"
    assert letters.choice_itself("A", choices) == "A"
    assert letters.choice_itself("none of it", {}) is None


def ranked(losses, right="B"):
    return Answered(Item("1", "", right), "", "FILE, line 1", losses)


def test_the_lowest_loss_counts_and_of_equal_ones_the_first():
    marks = letters.by_likelihood([ranked({"A": 2.0, "B": 1.0, "C": 1.5}), ranked({"A": 1.0, "B": 1.0})])
    assert [(mark.read, mark.value) for mark in marks] == [("B", 1.0), ("A", 0.0)]


@pytest.mark.parametrize("losses", [None, {}, {"A": math.nan, "B": 1.0}, {"A": 1.0, "B": -math.inf}])
def test_a_ranking_without_losses_is_refused(losses):
    with pytest.raises(ScoringError, match="FILE, line 1"):
        letters.by_likelihood([ranked(losses)])


def test_what_names_no_choice_is_wrong_even_where_the_right_answer_is_not_published():
    mark = letters.by_letter(letters.official_2023)
    unknown, refused = mark([Answered(Item("1", "", None), "no idea"), Answered(Item("2", "", "Z"), "no idea")])
    assert (unknown.value, refused.value) == (0.0, 0.0)
