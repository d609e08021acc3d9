"""The figures of a causal check: against every exchange there is, and against sums by hand."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pargo_mllm.alignment.judgement import Removal, Trial, judged


def trial(number, effect, drawn, **changes):
    values = {"said": True, "lost": False, "random_lost": 0.0, **changes}
    removal = Removal(number, 1, effect, float(np.mean(drawn)), float(np.std(drawn, ddof=1)), **values)
    return Trial(f"picture {number}", removal, drawn)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=2, max_size=4))
def test_the_exact_test_counts_every_exchange(rows):
    check = judged({"one": [trial(number, row[0], row[1:]) for number, row in enumerate(rows)]})["one"]
    sums = np.array([sum(chosen) for chosen in product(*rows)])
    own = sum(row[0] for row in rows)
    exact = min(1.0, 2 * min((sums >= own).mean(), (sums <= own).mean()))
    # of 9,999 exchanges the share has a standard deviation of 0.005 at most, twice that doubled; t may only raise it
    assert check.p >= exact - 0.04
    assert check.verdict == "no difference" or check.p < 0.05


def test_figures_are_means_over_questions():
    trials = [
        trial(0, 4.0, [1.0, 2.0], lost=True, random_lost=0.5, other_effect=1.0, other_random=0.5),
        trial(1, 5.0, [0.0, 1.0], said=False),
        trial(2, 9.0, [2.0, 3.0], lost=False, random_lost=0.0, other_effect=0.0, other_random=0.5),
    ]
    check = judged({"one": trials})["one"]
    assert check.effect.value == 6.0
    assert check.random == pytest.approx(1.5)
    assert check.spread == pytest.approx(0.5**0.5)
    assert check.difference.value == pytest.approx((2.5 + 4.5 + 6.5) / 3)
    assert check.difference.error == pytest.approx(np.std([2.5, 4.5, 6.5], ddof=1) / 3**0.5)
    assert (check.lost, check.random_lost) == (0.5, 0.25)
    assert check.control.value == pytest.approx(0.0)
    assert check.specific.value == pytest.approx((2.0 + 7.0) / 2)


def test_a_verdict_counts_all_methods_in():
    strong = [trial(number, 3.0 + number / 100, [0.1, -0.1, 0.2, -0.2] * 5) for number in range(8)]
    weak = [trial(number, effect, [0.0, 1.0, -1.0] * 6) for number, effect in enumerate((2, 1, 0.5, 1, 1, -0.5, -0.1, 1))]
    below = [trial(number, -3.0 - number / 100, [0.1, -0.1, 0.2, -0.2] * 5) for number in range(8)]
    alone = judged({"weak": weak})["weak"]
    assert alone.verdict == "believed"
    together = judged({"weak": weak, "strong": strong, "below": below, "weak again": weak})
    assert {method: one.verdict for method, one in together.items()} == {
        "weak": "no difference",
        "strong": "believed",
        "below": "worse than random",
        "weak again": "no difference",
    }
    assert together["weak"].p == pytest.approx(2 * alone.p), "the two largest of four"
    one_picture = [Trial("same", one.removal, one.drawn) for one in strong]
    assert judged({"strong": one_picture})["strong"].verdict == "undecided"
