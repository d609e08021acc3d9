"""How much of a patch a thing covers: held against points that are looked at one by one."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pargo_mllm.data.regions import Outline, Pixels, Region, Runs, label_coverage, seen_through
from pargo_mllm.data.sources.run_lengths import MAX_MASK, MaskError, counts_of, read_counts, write_counts

# all borders lie on lines of this lattice, so that looking at the middle of each of its cells sees areas exactly
LATTICE = 24
steps = st.integers(-12, LATTICE + 12)


@st.composite
def windows(draw):
    """Parts of the picture, whole steps a patch, beyond its borders too, mirrored too; and the steps of a patch."""
    grid = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    left, top = draw(steps), draw(steps)
    down, across = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    window = (left, top, left + across * grid[1], top + down * grid[0])
    if draw(st.booleans()):
        window = (window[2], window[1], window[0], window[3])
    return grid, tuple(number / LATTICE for number in window), (down, across)


def looked_at(is_inside, grid, window, points):
    """The share of places, ``points`` (down, across) of each patch, that are inside."""
    left, top, right, bottom = window
    found = np.zeros(grid)
    for row, column in np.ndindex(*grid):
        for down, across in np.ndindex(*points):
            x = left + (right - left) * (column + (across + 0.5) / points[1]) / grid[1]
            y = top + (bottom - top) * (row + (down + 0.5) / points[0]) / grid[0]
            found[row, column] += is_inside(x, y)
    return found / math.prod(points)


@settings(max_examples=50, deadline=None)
@given(windows(), st.tuples(steps, steps, steps, steps))
def test_a_box_covers_what_lies_in_it(asked, corners):
    grid, window, points = asked
    # reversed ones too, and some without extent: they cover nothing
    x1, y1, x2, y2 = (number / LATTICE for number in corners)
    seen = looked_at(lambda x, y: x1 < x < x2 and y1 < y < y2, grid, window, points)
    assert np.allclose(Region(("cat",), (x1, y1, x2, y2)).coverage(grid, window), seen, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(windows(), st.sampled_from([1, 2, 3, 4, 6, 8]), st.sampled_from([1, 2, 3, 4, 6, 8]), st.integers(0, 2**32))
def test_a_mask_covers_what_its_pixels_do(asked, height, width, seed):
    grid, window, points = asked
    pixels = np.random.default_rng(seed).random((height, width)) < 0.4

    def is_inside(x, y):
        return 0 < x < 1 and 0 < y < 1 and pixels[int(y * height), int(x * width)]

    seen = looked_at(is_inside, grid, window, points)
    for shape in (Pixels(pixels), Runs(counts_of(pixels), (height, width))):
        assert np.allclose(Region(("cat",), shape).coverage(grid, window), seen, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5)), min_size=0, max_size=9), max_size=3),
    st.floats(0.3, 3),
)
def test_a_pixel_of_an_outline_is_one_whose_middle_lies_inside(polygons, aspect):
    pixels = Outline(tuple(map(tuple, polygons)), aspect).pixels
    height, width = pixels.shape
    assert max(height, width) == 1024
    rng = np.random.default_rng(0)
    for row, column in zip(rng.integers(0, height, 60), rng.integers(0, width, 60), strict=True):
        x, y = (column + 0.5) / width, (row + 0.5) / height
        # a line to the left crosses the borders of what it begins in an odd number of times
        crossed, nearest = [], 1.0
        for polygon in polygons:
            count = 0
            for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
                if (y1 <= y) != (y2 <= y):
                    place = x1 + (y - y1) / (y2 - y1) * (x2 - x1)
                    count, nearest = count + (place < x), min(nearest, abs(place - x))
            crossed.append(count)
        if nearest > 1e-9:
            assert pixels[row, column] == any(count % 2 for count in crossed)


def test_the_area_of_an_outline_in_a_view_is_that_of_the_polygon():
    """A quadrilateral, whose area in a window is known: a triangle of it is cut off by the window's border."""
    region = Region(("kite",), Outline((((0.2, 0.5), (0.5, 0.1), (0.8, 0.5), (0.5, 0.9)),), aspect=1.5))
    assert region.coverage((1, 1))[0, 0] == pytest.approx(0.6 * 0.8 / 2, abs=2e-5)
    # of the right half, mirrored, a quarter's outer half has a triangle of 0.05 x 0.0667, its inner half the rest of 0.06
    corner = 0.05 * (0.4 * 0.05 / 0.3) / 2
    seen = region.coverage((2, 2), (1.0, 0.0, 0.5, 1.0))
    assert seen == pytest.approx(np.array([[corner, 0.06 - corner]] * 2) / 0.125, abs=2e-4)
    whole = region.coverage((40, 40))
    assert np.abs(region.within((1, 0, 0, 1)).coverage((40, 40)) - whole[:, ::-1]).max() < 1e-9


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.integers(0, 2**32))
def test_runs_are_the_pixels_column_by_column(height, width, share, seed):
    pixels = np.random.default_rng(seed).random((height, width)) < share
    counts, before = [0], False
    for column in range(width):
        for row in range(height):
            if pixels[row, column] != before:
                counts.append(0)
                before = pixels[row, column]
            counts[-1] += 1
    assert counts_of(pixels).tolist() == counts
    assert read_counts(write_counts(np.array(counts)), (height, width)).tolist() == counts
    assert (Runs(read_counts(counts, (height, width)), (height, width)).pixels == pixels).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**19), min_size=1, max_size=30))
def test_long_runs_are_read_as_they_were_written(counts):
    counts[0] += 2**23 - sum(counts)
    assert read_counts(write_counts(np.array(counts)), (2**10, 2**13)).tolist() == counts


def test_texts_that_coco_wrote_are_read():
    """Of other people's files, with what they say of the same masks."""
    square = np.zeros((100, 100), bool)
    square[:50, 50:] = True
    text = "Xl4b1b1" + "0" * 98
    assert (Runs(read_counts(text, (100, 100)), (100, 100)).pixels == square).all()
    assert write_counts(counts_of(square)) == text
    # the box that stands beside it: x, y, width, height
    person = Runs(read_counts("nYW31n>2N2FNbA48Kf=?XBDe=m0OM3M4YOPB8_>L4JXao5", (480, 640)), (480, 640)).pixels
    rows, columns = person.any(axis=1).nonzero()[0], person.any(axis=0).nonzero()[0]
    found = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
    assert np.abs(np.subtract(found, [219.9, 176.12, 11.14, 34.23])).max() < 1.5


@pytest.mark.parametrize(
    ("told", "size"),
    [
        *(
            ([1, 2], (2, 2)),
            ([5], (2, 2)),
            ([-1, 5], (2, 2)),
            ([True, 3], (2, 2)),
            ([4.0], (2, 2)),
            ("4", (2, 3)),
            ("", (1, 1)),
        ),
        *(("P", (2, 2)), ("é", (2, 2)), ("/", (2, 2)), ("P" * 8 + "0", (2, 2)), (None, (2, 2)), ({}, (2, 2)), ([], (0, 5))),
        *(([2**40], (2**20, 2**20)), ("o" * 7 + "0", (2, 2)), ([2**70], (2, 2)), ("\x7f0", (2, 2)), ([math.nan], (1, 1))),
    ],
    ids=range(19),
)
def test_runs_that_are_none_of_the_mask_are_refused(told, size):
    with pytest.raises(MaskError):
        read_counts(told, size)


def test_the_largest_mask_takes_megabytes():
    side = math.isqrt(MAX_MASK)
    region = Region(("sky",), Runs(read_counts([0, MAX_MASK], (side, side)), (side, side)))
    tracemalloc.start()
    try:
        assert region.coverage((24, 24)) == pytest.approx(np.ones((24, 24)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**28


@pytest.mark.parametrize("window", [(0.5, 0, 0.5, 1), (0, 1, 1, 1), (0, 0, math.nan, 1), (0, 0, math.inf, 1)])
def test_a_window_that_shows_nothing_is_refused(window):
    with pytest.raises(ValueError, match="shows nothing"):
        Region(("cat",), (0.0, 0.0, 1.0, 1.0)).coverage((2, 2), window)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Region(("cat",), (0.0, 0.0, math.nan, 1.0)),
        lambda: Region(("cat",), (0.0, -math.inf, 1.0, 1.0)),
        lambda: Region((), (0.0, 0.0, 1.0, 1.0)),
        lambda: Outline((((0.0, 0.0), (math.nan, 1.0), (1.0, 1.0)),)),
        lambda: Outline((((0.0, 0.0), (1e300, 1.0), (1.0, 1.0)),)),
        lambda: Outline((), aspect=0.0),
        lambda: Runs(np.array([3, 2]), (2, 2)),
        lambda: Runs(np.array([-1, 5]), (2, 2)),
    ],
)
def test_what_is_no_region_is_refused(make):
    with pytest.raises(ValueError, match=r"must|no"):
        make()


def test_things_of_one_name_cover_together_and_lie_apart_from_others():
    left, right = Region(("cat", "kitten"), (0.0, 0.0, 0.5, 1.0)), Region(("cat",), (0.5, 0.0, 1.0, 0.5))
    found = label_coverage([left, right, Region(("dog",), (0.0, 0.0, 0.25, 1.0))], (2, 2))
    assert found["cat"].tolist() == [[1, 1], [1, 0]]
    assert found["dog"].tolist() == [[0.5, 0], [0.5, 0]]


@settings(max_examples=30, deadline=None)
@given(windows(), windows())
def test_a_view_of_a_view_is_a_view(first, second):
    region = Region(("cat",), (0.1, 0.2, 0.7, 0.9))
    inner = region.within(first[1]).coverage(second[0], second[1])
    assert np.allclose(inner, region.coverage(second[0], seen_through(first[1], second[1])), atol=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"names": names} for names in ("dog", (), ("",), (None,))),
        *({"shape": box} for box in ((0, 0, 1), (0, 0, 1, 1, 1), (0, 0, 1, math.nan))),
        *({"window": window} for window in ((0, 0, 0, 1), (0, 0, 1), (0, 0, math.inf, 1))),
        *({"score": score} for score in (7, -0.5, math.nan)),
    ],
    ids=str,
)
def test_fields_of_a_region_are_checked(wrong):
    with pytest.raises(ValueError, match=r"must (have|be)|shows nothing"):
        Region(**{"names": ("dog",), "shape": (0.0, 0.0, 1.0, 1.0), **wrong})


def test_views_grids_and_masks_of_nothing_are_refused():
    region = Region(("dog",), (0.0, 0.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="shows nothing"):
        region.within((0.5, 0.0, 0.5, 1.0))
    for grid in ((-1, 2), (2, 0)):
        with pytest.raises(ValueError, match="must be rows and columns"):
            region.coverage(grid)
    # 255 for what is inside would count 255 times
    for pixels in (np.full((4, 4), 255, np.uint8), np.zeros(4, bool), np.zeros((0, 4), bool)):
        with pytest.raises(ValueError, match=r"must be bool \[H, W\]"):
            Pixels(pixels)
