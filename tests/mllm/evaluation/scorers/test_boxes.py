"""Boxes in declared frames, and when another frame is said to fit much better."""

import random
import warnings

import pytest

from pargo_mllm.data.frames import FRAMES, convert
from pargo_mllm.evaluation.scorers.boxes import FrameWarning, Pair, better_frame, overlap

SIZES = [(640, 480), (640, 320), (320, 640), (500, 333)]


def pairs(said_in, count=40, jitter=0.02, knows_sizes=True, seed=0):
    """Boxes a little beside the right ones, as a model in that frame writes them."""
    rng, made = random.Random(seed), []
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        x, y = rng.uniform(0, 0.6) * width, rng.uniform(0, 0.6) * height
        box = (x, y, x + rng.uniform(0.1, 0.4) * width, y + rng.uniform(0.1, 0.4) * height)
        near = [one + rng.uniform(-jitter, jitter) * side for one, side in zip(box, (width, height) * 2, strict=True)]
        said = convert(near, "pixels", said_in, (width, height))
        made.append(Pair(said, box, (width, height) if knows_sizes else None))
    return made


def quiet(given, frame):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return better_frame(given, frame)


@pytest.mark.parametrize("frame", FRAMES)
def test_boxes_in_their_own_frame_are_right_and_nothing_is_said(frame):
    made = pairs(frame)
    assert sum(overlap(pair, frame) >= 0.5 for pair in made) >= 36
    assert quiet(made, frame) is None


@pytest.mark.parametrize("declared", FRAMES)
@pytest.mark.parametrize("theirs", FRAMES)
def test_another_frame_is_found_where_sizes_are_known(declared, theirs):
    if declared == theirs:
        return
    made = pairs(theirs)
    gain = sum(overlap(pair, theirs) >= 0.5 for pair in made) - sum(overlap(pair, declared) >= 0.5 for pair in made)
    # a share of 0.2
    assert gain > 8
    with pytest.warns(FrameWarning, match=f"declared frame, {declared} .* in the frame {theirs} .*--frame {theirs}"):
        assert better_frame(made, declared) == theirs


@pytest.mark.parametrize("theirs", ["picture", "thousand"])
def test_another_frame_is_found_where_no_size_is_known(theirs):
    made = pairs(theirs, knows_sizes=False, count=80)
    with pytest.warns(FrameWarning, match=rf"of pictures with about \d+ x \d+ pixels.*--frame {theirs}"):
        assert better_frame(made, "pixels") == theirs


def test_boxes_that_are_only_wrong_are_in_no_other_frame():
    right = pairs("pixels", count=60)
    shuffled = [Pair(other.said, pair.right) for pair, other in zip(right, right[7:] + right[:7], strict=True)]
    assert quiet(shuffled, "pixels") is None
    assert quiet([Pair(one.said, one.right, two.size) for one, two in zip(shuffled, right, strict=True)], "picture") is None
    assert quiet([Pair(None, pair.right) for pair in right], "pixels") is None
    assert quiet(pairs("pixels", knows_sizes=False, jitter=0.1), "pixels") is None


def test_a_box_or_two_tell_nothing():
    assert quiet(pairs("thousand", count=2), "pixels") is None


def test_the_size_is_needed_for_all_frames_but_one():
    pair = Pair((1.0, 1.0, 2.0, 2.0), (1.0, 1.0, 2.0, 2.0))
    assert overlap(pair, "pixels") == 1
    with pytest.raises(ValueError, match="need the picture's size"):
        overlap(pair, "thousand")
    assert overlap(Pair(None, (0.0, 0.0, 1.0, 1.0)), "picture") == 0
