"""Boxes in their frames, against arithmetic by hand and laws that hold for all boxes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pargo_mllm.data.frames import FRAMES, convert, from_xywh, iou, read_box, write_box

numbers = st.floats(-2000, 2000)
boxes = st.tuples(numbers, numbers, numbers, numbers)
sizes = st.tuples(st.integers(1, 4000), st.integers(1, 4000))
frames = st.sampled_from(sorted(FRAMES))


def proper(box):
    x1, y1, x2, y2 = box
    return (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


@pytest.mark.parametrize(
    ("frame", "box"),
    [
        ("pixels", (160, 120, 480, 360)),
        ("picture", (0.25, 0.25, 0.75, 0.75)),
        ("thousand", (250, 250, 750, 750)),
        # 80 rows of padding above and below make it a square of 640
        ("padded", (0.25, 200 / 640, 0.75, 440 / 640)),
    ],
)
def test_one_box_of_a_wide_picture_in_all_frames(frame, box):
    assert convert((160, 120, 480, 360), "pixels", frame, (640, 480)) == pytest.approx(box, abs=1e-12)
    assert convert(box, frame, "pixels", (640, 480)) == pytest.approx((160, 120, 480, 360), abs=1e-9)


def test_a_high_picture_is_padded_left_and_right():
    assert convert((0, 0, 1, 1), "picture", "padded", (50, 100)) == (0.25, 0.0, 0.75, 1.0)


@given(boxes, frames, frames, frames, sizes)
def test_there_and_back_and_any_way_round(box, one, other, third, size):
    there = convert(box, one, other, size)
    assert convert(there, other, one, size) == pytest.approx(box, rel=1e-9, abs=1e-6)
    # errors grow with what a unit of the frame is in pixels
    unit = max(map(abs, convert(there, other, third, size)))
    assert convert(convert(box, one, third, size), third, other, size) == pytest.approx(there, rel=1e-6, abs=1e-9 * (1 + unit))


@given(boxes, boxes, frames, frames, sizes)
def test_the_overlap_is_the_same_in_all_frames(one, two, source, target, size):
    one, two = proper(one), proper(two)
    moved = [convert(box, source, target, size) for box in (one, two)]
    if min(one[2] - one[0], one[3] - one[1], two[2] - two[0], two[3] - two[1]) > 1:
        assert iou(*moved) == pytest.approx(iou(one, two), abs=1e-6)


@given(boxes, boxes)
def test_overlaps_are_shares_and_the_same_both_ways(one, two):
    assert 0 <= iou(one, two) <= 1
    assert iou(one, two) == iou(two, one)


def test_overlaps_by_hand():
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    # the wrong way round nothing is covered
    assert iou((10, 10, 0, 0), (0, 0, 10, 10)) == 0
    assert iou((3, 3, 3, 3), (3, 3, 3, 3)) == 0
    assert iou((0, 0, math.nan, 10), (0, 0, 10, 10)) == 0
    assert iou((0, 0, math.inf, 10), (0, 0, 10, 10)) == 0
    assert iou((-1e308, -1e308, 1e308, 1e308), (0, 0, 1, 1)) == 0


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[0.100,0.200,0.300,0.400]", (0.1, 0.2, 0.3, 0.4)),
        ('```json\n[{"bbox_2d": [14, 135, 136, 470], "label": "man [left]"}]```', (14, 135, 136, 470)),
        ("First [1,2] then [ -1.5 , 2. , .5 , 1e2 ] and [5,6,7,8]", (-1.5, 2, 0.5, 100)),
        ("[10,20,5,1]", (10, 20, 5, 1)),
        ("", None),
        ("no box", None),
        ("(1,2,3,4)", None),
        ("<ref>a dog</ref><box>(230,316),(452, 550)</box>", (230, 316, 452, 550)),
        ("(1,2), (3,4) or [5,6,7,8]", (1, 2, 3, 4)),
        ("(1,2) (3,4)", None),
        ("[1,2,3]", None),
        ("[1,2,3,4,5]", None),
        ("[1;2;3;4]", None),
        ("[nan,0,1,1]", None),
        ("[0,0,1e999,1]", None),
        ("[one,two,three,four]", None),
    ],
)
def test_the_first_box_of_a_text(text, box):
    assert read_box(text) == box


@given(st.text(alphabet="[]()0123456789.,-+e \n", max_size=200))
def test_any_text_is_read_without_an_error(text):
    read_box(text)


def test_long_texts_are_read_at_once():
    assert read_box("[" * 100_000 + "1" * 100_000 + ",1,1,1]" + "[1,2,3,4]") == (1, 2, 3, 4)


def test_boxes_are_written_as_training_writes_them():
    assert write_box((0.1, 0.25, 1 / 3, 1)) == "[0.100,0.250,0.333,1.000]"
    assert read_box(write_box((0.125, 0.25, 0.5, 1))) == (0.125, 0.25, 0.5, 1)
    assert from_xywh((10, 20, 30, 40)) == (10, 20, 40, 60)


@given(st.tuples(*[st.floats(0, 1)] * 4), frames, st.tuples(st.integers(50, 4000), st.integers(50, 4000)))
def test_written_boxes_are_read_again_in_all_frames(box, frame, size):
    there = convert(box, "picture", frame, size)
    back = convert(read_box(write_box(there, frame)), frame, "pixels", size)
    # half a unit of the last digit: half a thousandth of the longer side, or a twentieth of a pixel
    assert back == pytest.approx(convert(box, "picture", "pixels", size), abs=0.000501 * max(*size, 100))


def test_no_zero_has_a_sign():
    assert write_box((-0.0001, 0, 0.5, 1)) == "[0.000,0.000,0.500,1.000]"
    assert write_box((-0.2, 0, 500.4, 1000), "thousand") == "[0,0,500,1000]"
    assert write_box((-0.01, 0.25, 31.5, 100), "pixels") == "[0.0,0.2,31.5,100.0]"


def test_what_is_no_frame_is_refused():
    with pytest.raises(ValueError, match="no frame 'percent'"):
        convert((0, 0, 1, 1), "percent", "pixels", (10, 10))
    with pytest.raises(ValueError, match="no frame"):
        convert((0, 0, 1, 1), "picture", "pixels", (0, 10))
