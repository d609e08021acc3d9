"""The interval formulas against brute force."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pargo_kernels import intervals


@st.composite
def partial_layouts(draw):
    num_partial = draw(st.integers(1, 80))
    return num_partial, draw(st.integers(num_partial, 400))


@st.composite
def band_layouts(draw):
    num_tokens = draw(st.integers(1, 60))
    return num_tokens, draw(st.integers(1, num_tokens)), draw(st.sampled_from(intervals.EDGES))


@given(partial_layouts())
def test_partial_bounds_are_the_floors_of_eq_1(layout):
    num_partial, num_keys = layout
    bounds = intervals.partial_bounds(num_partial, num_keys)
    assert bounds.dtype == torch.int64
    assert bounds.tolist() == [[i * num_keys // num_partial, (i + 1) * num_keys // num_partial] for i in range(num_partial)]
    lengths = bounds[:, 1] - bounds[:, 0]
    assert lengths.min() >= 1
    assert lengths.max() - lengths.min() <= (num_keys % num_partial != 0)


def test_without_partial_rows_there_are_no_slices():
    slices = intervals.partial_bounds(0, 5)
    assert slices.shape == (0, 2)
    assert slices.dtype == torch.int64


@given(partial_layouts())
def test_partial_owner_is_the_row_whose_slice_holds_the_key(layout):
    num_partial, num_keys = layout
    mask = intervals.interval_mask(intervals.partial_bounds(num_partial, num_keys), num_keys)
    assert mask.sum(0).eq(1).all()
    owner = intervals.partial_owner(torch.arange(num_keys), num_partial, num_keys)
    assert torch.equal(owner, mask.int().argmax(0))


def test_partial_start_does_not_overflow_int32_at_65536_keys():
    num_partial, num_keys = 32768, 65536 + 12345
    rows = torch.arange(num_partial + 1, dtype=torch.int32)
    starts = intervals.partial_start(rows, num_partial, num_keys)
    assert starts.dtype == torch.int32
    assert starts.tolist() == [i * num_keys // num_partial for i in range(num_partial + 1)]


@given(band_layouts())
def test_window_bounds_are_the_nearest_window_that_fits_or_the_cut_one(layout):
    num_tokens, window, edge = layout
    expected = []
    for row in range(num_tokens):
        start = row - window // 2
        if edge == "truncate":
            seen = [j for j in range(num_tokens) if start <= j < start + window]
        else:
            nearest = min(range(num_tokens - window + 1), key=lambda s, start=start: abs(s - start))
            seen = list(range(nearest, nearest + window))
        expected.append([seen[0], seen[-1] + 1])
    assert intervals.window_bounds(num_tokens, window, edge).tolist() == expected


@given(band_layouts())
def test_window_rows_invert_window_bounds(layout):
    num_tokens, window, edge = layout
    mask = intervals.interval_mask(intervals.window_bounds(num_tokens, window, edge), num_tokens)
    rows = intervals.window_rows(num_tokens, window, edge)
    assert torch.equal(intervals.interval_mask(rows, num_tokens), mask.T)
    assert 0 <= rows.min() <= rows.max() <= num_tokens


def test_windows_are_clamped_where_nothing_is_said():
    assert torch.equal(intervals.window_bounds(9, 4), intervals.window_bounds(9, 4, "clamp"))
    assert torch.equal(intervals.window_rows(9, 4), intervals.window_rows(9, 4, "clamp"))


def test_clamped_windows_match_the_panels_of_the_papers_figure():
    one_to_one, one_to_two, one_to_all = (
        intervals.interval_mask(intervals.window_bounds(4, w), 4).int().tolist() for w in (1, 2, 4)
    )
    assert one_to_one == torch.eye(4, dtype=torch.int).tolist()
    assert one_to_two[:2] == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert one_to_two[3] == [0, 0, 1, 1]
    assert one_to_all == torch.ones(4, 4, dtype=torch.int).tolist()


def test_cascade_windows_of_the_paper():
    assert intervals.cascade_windows(288, 6) == [48, 96, 144, 192, 240, 288]
    assert intervals.cascade_windows(4, 6) == [1, 1, 2, 2, 3, 4]
    assert intervals.cascade_windows(1, 2) == [1, 1]
    assert intervals.cascade_windows(5, 1) == [5]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: intervals.partial_bounds(5, 4), ("num_partial=5", "num_keys=4", "at least one key")),
        (lambda: intervals.partial_bounds(-1, 4), ("num_partial=-1", "at least 0")),
        (lambda: intervals.window_bounds(4, 0), ("window=0", "1...4")),
        (lambda: intervals.window_bounds(4, 5), ("window=5", "1...4")),
        (lambda: intervals.window_rows(4, 5), ("window=5", "1...4")),
        (lambda: intervals.window_bounds(4, 2, "wrap"), ("edge='wrap'", "'clamp'", "'truncate'")),
        (lambda: intervals.cascade_windows(0, 6), ("num_partial=0", "at least 1")),
        (lambda: intervals.cascade_windows(4, 0), ("num_layers=0", "at least 1")),
    ],
)
def test_impossible_layouts_say_why(call, words):
    with pytest.raises(ValueError, match=r".") as error:
        call()
    assert all(word in str(error.value) for word in words)
