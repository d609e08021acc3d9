import numpy as np
import pytest

from pargo_mllm.filtering.discernment import area


@pytest.mark.parametrize("seed", range(3))
def test_the_area_is_the_share_of_comparisons_that_are_won(seed):
    rng = np.random.default_rng(seed)
    # coarse numbers, so that many are the same
    own, other = rng.integers(0, 9, 70) + 2.0, rng.integers(0, 9, 70) * 1.0
    won = [float(a > b) + 0.5 * (a == b) for a in own for b in other]
    assert area(own, other).auc == pytest.approx(np.mean(won))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_the_interval_holds_the_truth_as_often_as_it_says(share):
    """Scores of a text with two pictures depend on the text, by a share of their variance; the area of two normals is known."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        of_text = share**0.5 * rng.normal(size=120)
        own, other = (of_text + (1 - share) ** 0.5 * rng.normal(size=120) for _ in range(2))
        found = area(own + 0.5, other)
        # P(N(0.5, 1) > N(0, 1)) of two different texts
        inside += found.low <= 0.63816 <= found.high
    assert 0.92 <= inside / 400 <= 0.98


def test_without_a_loss_the_interval_still_has_a_width():
    few, many = (area(np.arange(count) + 100.0, np.arange(count) * 1.0) for count in (5, 40))
    assert few.auc == many.auc == 1
    assert not few.judges
    assert "too few pairs" in few.told()
    assert many.judges
    assert many.low < 1


def test_no_pairs_are_no_evidence():
    none = area(np.zeros(0), np.zeros(0))
    assert not none.judges
    assert "cannot be tried" in none.told()


def test_a_model_that_is_surely_at_chance_cannot_judge():
    rng = np.random.default_rng(1)
    found = area(rng.normal(size=2000), rng.normal(size=2000))
    assert not found.judges
    assert "cannot judge" in found.told()


@pytest.mark.parametrize("count", [20, 60, 200])
def test_an_interval_around_chance_is_told_as_such_with_enough_pairs(count):
    """Not as too few of them."""
    scores = np.random.default_rng(0).normal(size=2 * count)
    found = area(scores[:count], scores[count:])
    assert found.low < 0.5 < found.high
    assert "does not tell matching from swapped pairs" in found.told()
    assert "too few" not in found.told()


def test_an_interval_that_is_not_high_enough_is_told_as_such():
    rng = np.random.default_rng(3)
    found = area(rng.normal(0.25, 1, 800), rng.normal(size=800))
    assert 0.5 < found.low < 0.55 < found.high
    assert "does not surely tell" in found.told()
