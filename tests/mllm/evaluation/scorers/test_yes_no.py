"""Yes and no: what the published code gives, worked out by hand."""

import pytest

from pargo_mllm.evaluation.scorers import yes_no


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Yes", "yes"),
        ("NO", "no"),
        ("yes, it is", "yes"),
        (" yes", "yes"),
        ("  yes", "other"),
        ("\tno", "no"),
        # the first four characters
        ("no idea", "no"),
        ("know", "no"),
        ("not sure", "no"),
        ("none", "no"),
        ("eyes", "yes"),
        ("I know", "other"),
        ("The answer is yes", "other"),
        ("y", "other"),
        ("", "other"),
    ],
)
def test_mmes_rule(text, read):
    assert yes_no.mme(text) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("no", "no"),
        ("No, there is none.", "no"),
        ("There is not", "no"),
        ("no idea", "no"),
        ("I do not know", "no"),
        # words, and these alone
        ("know", "yes"),
        ("NO", "yes"),
        ("Not at all", "yes"),
        ("nothing", "yes"),
        ("There isn't", "yes"),
        # the first sentence
        ("Yes. There is no doubt", "yes"),
        ("Yes, no doubt.", "no"),
        (".no", "yes"),
        # spaces alone part words
        ("no\nbecause", "yes"),
        ("n,o", "no"),
        ("", "yes"),
    ],
)
def test_popes_rule(text, read):
    assert yes_no.pope(text) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Yes.", "yes"),
        ("YES!", "yes"),
        ("no idea", "no"),
        ("No, the circles are of one size", "no"),
        ("yes or no", "unknown"),
        ("know", "unknown"),
        ("not", "unknown"),
        ("**Yes**", "unknown"),
        ("Yes: it is", "unknown"),
        ("yes/indeed", "yes"),
        ("yes-no", "unknown"),
        # where punctuation stands beside a space it goes without leaving one
        ("yes/indeed - or /so", "unknown"),
        ("", "unknown"),
    ],
)
def test_vlmevalkits_rule(text, read):
    assert yes_no.one_word(text) == read


def test_counts_and_rates():
    found = yes_no.counts([("yes", "yes")] * 3 + [("no", "yes")] + [("no", "no")] * 4 + [("yes", "no")] * 2)
    assert found == {"TP": 3, "FP": 1, "TN": 4, "FN": 2}
    assert yes_no.rates(found) == {"precision": 3 / 4, "recall": 3 / 5, "f1": 2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5)}


def test_rates_of_nothing_are_zero():
    assert yes_no.rates(yes_no.counts([])) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
