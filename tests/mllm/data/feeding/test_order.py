"""The order of training: every epoch a permutation, exact shares, and the same from whatever position it is read."""

import pickle
import tracemalloc
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from math import ceil, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pargo_mllm.data.feeding.order import BLOCK, LengthGrouped, SampleOrder

SEEDS = st.integers(0, 2**40)
PARTS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any), min_size=1, max_size=4)


def walk(order, start, stop):
    return [order[position] for position in range(start, stop)]


@st.composite
def mixtures(draw):
    parts = draw(PARTS)
    weight = st.floats(0.01, 100)
    weights = draw(st.none() | st.lists(weight, min_size=len(parts), max_size=len(parts)))
    return parts, weights, draw(SEEDS), draw(st.integers(1, 4))


@given(mixtures())
@settings(max_examples=30)
def test_every_epoch_of_a_corpus_visits_each_example_once(arguments):
    read = walk(SampleOrder(*arguments), 0, BLOCK + 300)
    for corpus, parts in enumerate(arguments[0]):
        indices, size = [index for number, index in read if number == corpus], sum(parts)
        epochs = [indices[first : first + size] for first in range(0, len(indices), size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs[:-1])
        assert all(len(set(epoch)) == len(epoch) and set(epoch) <= set(range(size)) for epoch in epochs[-1:])


@given(PARTS, SEEDS, st.integers(1, 4))
def test_without_weights_everything_is_visited_once_before_anything_twice(parts, seed, window):
    everything = sorted((corpus, index) for corpus, sizes in enumerate(parts) for index in range(sum(sizes)))
    order, total = SampleOrder(parts, None, seed, window), len(everything)
    for visit in range(3):
        assert sorted(walk(order, visit * total, (visit + 1) * total)) == everything


@given(mixtures(), st.lists(st.integers(0, 3 * BLOCK), min_size=1, max_size=10))
@settings(max_examples=30)
def test_what_stands_at_a_position_does_not_depend_on_what_was_asked_before(arguments, positions):
    used = SampleOrder(*arguments)
    straight = walk(SampleOrder(*arguments), 0, max(positions) + 1)
    assert [used[position] for position in positions] == [straight[position] for position in positions]
    assert pickle.loads(pickle.dumps(used))[positions[0]] == straight[positions[0]]


@given(st.lists(st.floats(1e-7, 1) | st.sampled_from([0.103, 0.051, 1 / 3, 1e4]), min_size=1, max_size=13), SEEDS)
@settings(max_examples=30)
def test_shares_before_every_stretch_are_exact_up_to_rounding(weights, seed):
    order, counts = SampleOrder([[7]] * len(weights), weights, seed), Counter()
    exact = [Fraction(weight) for weight in weights]
    allowed = Fraction(ceil(log2(len(weights))), 2)
    for block in range(1, 5):
        counts.update(corpus for corpus, _ in walk(order, (block - 1) * BLOCK, block * BLOCK))
        for corpus, weight in enumerate(exact):
            assert abs(counts[corpus] - block * BLOCK * weight / sum(exact)) <= allowed


def test_shares_stay_exact_however_far_a_run_has_come():
    """Where an epoch of a corpus begins says how often the corpus was read before, up to whole epochs."""
    weights, size, start = [0.103, 0.051, 0.026], 40, BLOCK * 10**17 // 3 * 3
    order = SampleOrder([[size]] * 3, weights, 0)
    read = walk(order, start, start + 10 * BLOCK)
    for corpus, weight in enumerate(map(Fraction, weights)):
        indices = [index for number, index in read if number == corpus]
        full = len(indices) // size - 1
        (begins,) = [
            first
            for first in range(size)
            if all(len(set(indices[first + n * size : first + (n + 1) * size])) == size for n in range(full))
        ]
        assert full > 4
        error = (start * weight / sum(map(Fraction, weights)) + begins) % size
        assert min(error, size - error) <= 1


@given(st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(any), SEEDS, st.integers(1, 4), st.integers(0, 3))
def test_reads_stay_in_one_window_of_parts_until_it_is_used_up(parts, seed, window, epoch):
    size = sum(parts)
    read = [index for _, index in walk(SampleOrder([parts], None, seed, window), epoch * size, (epoch + 1) * size)]
    part_of = np.repeat(np.arange(len(parts)), parts)
    left, in_use = Counter(part_of.tolist()), set()
    for index in read:
        part = int(part_of[index])
        in_use.add(part)
        left[part] -= 1
        assert len(in_use) <= window
        if not any(left[part] for part in in_use):
            in_use = set()


def test_parts_and_examples_are_in_another_order_every_epoch():
    order = SampleOrder([[50] * 8], None, 0, window=1)
    epochs = [[index for _, index in walk(order, epoch * 400, (epoch + 1) * 400)] for epoch in range(4)]
    assert len({tuple(index // 50 for index in epoch[::50]) for epoch in epochs}) == 4, "parts"
    inside = {tuple(index for index in epoch if index < 50) for epoch in epochs}
    assert len(inside) == 4, "examples of a part"
    other = SampleOrder([[50] * 8], None, 1, window=1)
    assert walk(other, 0, 400) != walk(order, 0, 400)
    # two corpora alike are not read alike
    twins = walk(SampleOrder([[400], [400]], None, 0), 0, 800)
    assert [index for corpus, index in twins if not corpus] != [index for corpus, index in twins if corpus]


def test_a_window_is_shuffled_evenly():
    """Mean places of the examples over many seeds: chi-square of 12 x 12 counts, 121 degrees of freedom, at 1e-6."""
    counts = np.zeros((12, 12))
    for seed in range(1200):
        for place, (_, index) in enumerate(walk(SampleOrder([[3] * 4], None, seed, window=4), 0, 12)):
            counts[place, index] += 1
    assert ((counts - 100) ** 2 / 100).sum() < 205


def test_the_order_is_the_same_everywhere():
    """Fixed for good: runs that were begun elsewhere, or under another NumPy, go on from their position."""
    order = SampleOrder([[5, 0, 7], [1000]], [0.25, 1.5], 2**33 + 5, window=2)
    assert walk(order, 10**12, 10**12 + 8) == GOLDEN
    grouped = LengthGrouped(order, lambda corpus, index: index, 4, 3)
    assert [grouped[position][1] for position in range(12)] == GOLDEN_GROUP


GOLDEN = [(1, 507), (1, 771), (1, 913), (1, 624), (0, 2), (0, 1), (1, 174), (1, 52)]
GOLDEN_GROUP = [739, 754, 856, 921, 1, 219, 349, 531, 646, 666, 711, 717]


def test_a_thousand_million_examples_take_the_memory_of_a_window():
    order, tenth = SampleOrder([[1000] * 100_000, [10_000] * 90_000], None, 0), 10**8
    tracemalloc.start()
    try:
        read = {order[position] for position in range(0, 3 * 10 * tenth, tenth)}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(read) == 30
    # two windows of 160,000 with their random words, two epochs of 100,000 parts
    assert peak < 24 * 2**20


@given(mixtures(), st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
@settings(max_examples=30)
def test_grouping_by_length_keeps_the_examples_of_a_group(arguments, batch_size, batches, group):
    order = SampleOrder(*arguments)

    def length(corpus, index):
        return (7 * index + 3 * corpus) % 10

    size = batch_size * batches
    grouped = LengthGrouped(order, length, batch_size, batches)
    elsewhere = grouped[(group + 3) * size]
    read = walk(grouped, group * size, (group + 1) * size)
    assert Counter(read) == Counter(walk(order, group * size, (group + 1) * size))
    assert LengthGrouped(order, length, batch_size, batches)[(group + 3) * size] == elsewhere
    lengths = [[length(*example) for example in read[first : first + batch_size]] for first in range(0, size, batch_size)]
    by_length = sorted((min(batch), max(batch)) for batch in lengths)
    assert all(first[1] <= second[0] for first, second in pairwise(by_length)), "no batch reaches into another's lengths"


def test_batches_of_a_group_come_in_random_order():
    grouped = LengthGrouped(SampleOrder([[640]], None, 0), lambda corpus, index: index, 4, 16)
    firsts = [[grouped[group * 64 + batch * 4][1] for batch in range(16)] for group in range(10)]
    ranks = [tuple(np.argsort(np.argsort(first))) for first in firsts]
    assert len(set(ranks)) == 10
    assert tuple(range(16)) not in ranks


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([[3]], None, -1), "seed=-1 must be at least 0"),
        (([[3]], None, 0, 0), "window=0 must be at least 1"),
        (([], None, 0), "no corpus"),
        (([[3], [0, 0]], None, 0), r"parts\[1\] of 0 examples"),
        (([[3], []], None, 0), r"parts\[1\] of 0 examples"),
        (([[3], [5, -1]], None, 0), r"parts\[1\] of 4 examples must be numbers from 0"),
        (([[3], [5]], [1.0], 0), "one number for each of the 2 corpora"),
        (([[3], [5]], [1.0, 0.0], 0), "positive and finite"),
        (([[3], [5]], [1.0, float("nan")], 0), "positive and finite"),
        (([[3], [5]], [1.0, float("inf")], 0), "positive and finite"),
    ],
)
def test_impossible_orders_say_why(arguments, said):
    with pytest.raises(ValueError, match=said):
        SampleOrder(*arguments)


def test_positions_and_groups_out_of_range_say_why():
    order = SampleOrder([[3]], None, 0)
    with pytest.raises(IndexError, match="position=-1 must be at least 0"):
        order[-1]
    with pytest.raises(IndexError, match="position=-1 must be at least 0"):
        LengthGrouped(order, lambda corpus, index: 1, 2, 2)[-1]
    with pytest.raises(ValueError, match="batch_size=0"):
        LengthGrouped(order, lambda corpus, index: 1, 0, 2)
    with pytest.raises(ValueError, match="batches=0"):
        LengthGrouped(order, lambda corpus, index: 1, 2, 0)
