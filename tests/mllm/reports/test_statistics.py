"""Standard errors against formulas written out, and against many draws of data whose spread is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pargo_mllm.reports.statistics import (
    codes,
    correlation_within,
    holm,
    jackknife_error,
    left_out,
    mean_estimate,
    p_value,
    student_quantile,
    student_tail,
)

VALUES = st.lists(st.sampled_from([0.0, 0.3, 0.6, 1.0]), min_size=2, max_size=30)


def test_two_questions_a_picture_by_hand():
    """Pictures (1, 1), (0, 1), (0, 0): mean 1/2, residuals by picture sum to 1, 0, -1."""
    found = mean_estimate([1, 1, 0, 1, 0, 0], codes(list("aabbcc")))
    assert found.value == 0.5
    assert found.error == pytest.approx(math.sqrt(3 / 2 * (1 + 0 + 1)) / 6)
    assert found.naive == pytest.approx(math.sqrt(6 * 0.25 / (6 * 5)))
    assert (found.questions, found.clusters) == (6, 3)
    # two degrees of freedom: 4.303 of the tables
    assert found.interval == pytest.approx((0.5 - 4.303 * found.error, 0.5 + 4.303 * found.error), abs=1e-3)


@given(VALUES)
def test_a_question_a_picture_is_the_standard_deviation_over_the_root(values):
    found = mean_estimate(values, np.arange(len(values)))
    if len(set(values)) == 1:
        assert (found.error, found.naive, found.interval, found.detectable) == (None,) * 4
    else:
        assert found.error == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)))
        assert found.naive == pytest.approx(found.error)
        assert found.design_effect == pytest.approx(1)


@given(VALUES, st.integers(2, 4), st.randoms())
def test_asking_the_same_again_tells_nothing_new(values, times, random):
    """Every question asked several times about its picture: the clustered error stays, the naive one shrinks."""
    once = mean_estimate(values, np.arange(len(values)))
    order = [place for place in range(len(values)) for _ in range(times)]
    random.shuffle(order)
    again = mean_estimate([values[place] for place in order], codes([f"p{place}" for place in order]))
    assert again.value == pytest.approx(once.value)
    if once.error is not None:
        assert again.error == pytest.approx(once.error)
        assert again.naive < once.naive
        assert again.correlation == pytest.approx(1)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 1.0]), st.integers(0, 6)), min_size=3, max_size=40))
def test_clusters_of_any_size_by_the_double_sum(rows):
    """The variance as a sum over all pairs of questions of one picture, which is how Miller (2024) writes it."""
    values, keys = [value for value, _ in rows], [str(key) for _, key in rows]
    found, groups, mean = mean_estimate(values, codes(keys)), len(set(keys)), sum(values) / len(values)
    pairs = sum(
        (values[i] - mean) * (values[j] - mean) for i in range(len(rows)) for j in range(len(rows)) if keys[i] == keys[j]
    )
    if groups > 1 and pairs > 1e-9:
        assert found.error == pytest.approx(math.sqrt(groups / (groups - 1) * pairs) / len(rows))
    else:
        assert found.error is None


def test_one_picture_shows_no_spread():
    found = mean_estimate([1, 0, 1], codes(["a", "a", "a"]))
    assert (found.error, found.needed(0.1)) == (None, None)


def drawn(rng, clusters, size, correlation, mean=0.0):
    """Values of variance 1 whose two of a cluster correlate so much."""
    common = rng.standard_normal((clusters, 1)) * math.sqrt(correlation)
    return (mean + common + rng.standard_normal((clusters, size)) * math.sqrt(1 - correlation)).ravel()


def test_errors_are_the_spread_of_many_draws():
    """Means of 2,000 draws of 50 pictures with 4 questions each: their standard deviation is what each draw says of itself."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 4)
    estimates = [mean_estimate(drawn(rng, 50, 4, 0.5), groups) for _ in range(2000)]
    spread = np.std([one.value for one in estimates])
    # the mean of 200 values in clusters of 4 that correlate by 1/2: variance (1 + 3/2) / 200
    assert spread == pytest.approx(math.sqrt(2.5 / 200), rel=0.05)
    assert math.sqrt(np.mean([one.error**2 for one in estimates])) == pytest.approx(spread, rel=0.05)
    assert math.sqrt(np.mean([one.naive**2 for one in estimates])) == pytest.approx(spread / math.sqrt(2.5), rel=0.06)
    assert np.mean([one.correlation for one in estimates]) == pytest.approx(0.5, abs=0.02)
    held = np.mean([one.interval[0] <= 0 <= one.interval[1] for one in estimates])
    assert held == pytest.approx(0.95, abs=0.015)


def test_so_many_questions_find_the_difference_four_times_out_of_five():
    """As many pictures as are said to be needed, drawn again and again: 80 % of the draws are beyond chance."""
    rng = np.random.default_rng(1)
    pilot = mean_estimate(drawn(rng, 4000, 3, 0.4), np.repeat(np.arange(4000), 3))
    questions, pictures = pilot.needed(0.25)
    assert questions == 3 * pictures
    # the textbook's number: (1.96 + 0.84)^2 variances of a cluster's mean
    assert pictures == pytest.approx((1.95996 + 0.84162) ** 2 * (1 + 2 * 0.4) / 3 / 0.25**2, rel=0.06)
    groups = np.repeat(np.arange(pictures), 3)
    found = [p_value(mean_estimate(drawn(rng, pictures, 3, 0.4, 0.25), groups)) < 0.05 for _ in range(1500)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)
    assert pilot.needed(0.25, times=2)[1] == pytest.approx(2 * pictures, abs=1)
    # what these questions show, they show
    assert pilot.needed(pilot.detectable) == (12000, 4000)


def test_the_jackknife_of_a_mean_is_the_formula():
    rng = np.random.default_rng(2)
    values = rng.random(30)
    replicates = [values[kept].mean() for kept in left_out(np.arange(30))]
    assert jackknife_error(replicates) == pytest.approx(np.std(values, ddof=1) / math.sqrt(30))


def test_the_jackknife_of_a_ratio_is_the_spread_of_many_draws():
    """A figure that is no mean: a ratio of sums, over 2,000 draws of 60 clusters of 3."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(60), 3)
    ratios, errors = [], []
    for draw in range(2000):
        above, below = drawn(rng, 60, 3, 0.5, 2.0), drawn(rng, 60, 3, 0.5, 5.0)
        ratios.append(above.sum() / below.sum())
        if draw < 200:
            errors.append(jackknife_error([above[kept].sum() / below[kept].sum() for kept in left_out(groups)]))
    assert math.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(ratios), rel=0.08)


def test_many_clusters_are_left_out_in_groups():
    """5,000 clusters of 5,000 values: 200 groups, each cluster in one of them, and the error near the formula's."""
    values = np.random.default_rng(4).random(5000)
    masks = list(left_out(np.arange(5000)))
    assert len(masks) == 200
    assert (np.sum([~mask for mask in masks], axis=0) == 1).all()
    formula = np.std(values, ddof=1) / math.sqrt(5000)
    assert jackknife_error([values[mask].mean() for mask in masks]) == pytest.approx(formula, rel=0.15)
    assert [mask.tolist() for mask in left_out(np.arange(5000))] == [mask.tolist() for mask in masks]


def test_no_picture_is_a_cluster_of_its_own():
    assert codes(["a", "", "b", "", "a"]).tolist() == [0, 1, 2, 3, 0]


def test_correlation_by_the_analysis_of_variance():
    """Pictures (0, 1), (1, 1), (0, 0): mean squares 1/2 between and 1/6 within, so (1/2 - 1/6) / (1/2 + 1/6) = 1/2."""
    assert correlation_within(np.array([0, 1, 1, 1, 0, 0.0]), codes(list("aabbcc"))) == pytest.approx(0.5)
    assert correlation_within(np.array([0, 1.0]), codes(list("ab"))) is None


@pytest.mark.parametrize(
    # of printed tables
    ("share", "freedom", "t"),
    [(0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 10, 2.228), (0.95, 5, 2.015), (0.995, 30, 2.750), (0.975, 10**6, 1.960)],
)
def test_students_distribution_is_that_of_the_tables(share, freedom, t):
    assert student_quantile(share, freedom) == pytest.approx(t, abs=6e-4)
    assert student_tail(t, freedom) == pytest.approx(2 * (1 - share), abs=2e-4)


def test_holm_by_hand():
    """0.01 of three comparisons counts three times, 0.03 twice, 0.04 once, and none less than a smaller one."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_where_every_picture_says_the_same_coins_decide():
    always = mean_estimate([1.0] * 6, codes(list("abcdef")))
    assert p_value(always) == 2 / 2**6
    assert p_value(mean_estimate([0.0] * 6, codes(list("abcdef")))) == 1
