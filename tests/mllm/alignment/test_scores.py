"""Agreement of patches and words, against figures that are worked out by hand."""

import math

import pytest
import torch

from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.labels import token_labels
from pargo_mllm.alignment.scores import WordScoring

NAMES = ("up", "right", "slope")
WORDS = torch.tensor([[0.0, 2], [5, 0], [1, 1]])
TOKENS = torch.tensor([[0.0, 1], [1, 0.1], [1, 1], [3, 4], [-1, 0], [0, 0]])
#          nearest      up       right    slope   slope    up (0 before -1)  -
LABELS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.2, 0.8, 0], [0, 0.5, 0.5], [0, 1, 0], [0, 0, 0]])


def test_by_hand():
    scoring = WordScoring(NAMES, WORDS)
    scoring.add(TOKENS, LABELS)
    found = scoring.scores()
    assert (found.tokens, found.unlabelled) == (5, 1)
    closeness = [1, 1 / math.hypot(1, 0.1), math.sqrt(0.5), 7 / (5 * math.sqrt(2)), -1]
    assert found.alignment == pytest.approx(sum(closeness) / 5)
    # the third is nearest to slope, which it does not show; the fifth to up
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.by_label == {"up": (2, 1), "right": (4, 2), "slope": (1, 1)}
    assert found.class_mean == pytest.approx((1 / 2 + 2 / 4 + 1) / 3)
    assert found.most_frequent == pytest.approx(4 / 5)
    assert found.chance == pytest.approx((1 + 1 + 2 + 2 + 1) / 5 / 3)


def test_pictures_one_by_one_or_together():
    generator = torch.manual_seed(0)
    tokens = torch.randn(4, 5, 6, generator=generator)
    labels = (torch.rand(4, 5, 3, generator=generator) > 0.6).float()
    words = torch.randn(3, 6, generator=generator)
    whole, one_by_one = WordScoring(NAMES, words), WordScoring(NAMES, words)
    whole.add(tokens, labels)
    for picture in range(4):
        one_by_one.add(tokens[picture], labels[picture])
    assert one_by_one.scores().alignment == pytest.approx(whole.scores().alignment)
    assert one_by_one.scores().by_label == whole.scores().by_label


def test_what_all_words_share_is_taken_from_both():
    mean = torch.tensor([40.0, -7])
    scoring, moved = WordScoring(NAMES, WORDS), WordScoring(NAMES, WORDS + mean, mean)
    scoring.add(TOKENS, LABELS)
    moved.add(TOKENS + mean, LABELS)
    assert moved.scores().by_label == scoring.scores().by_label
    assert moved.scores().alignment == pytest.approx(scoring.scores().alignment, abs=1e-5)


def test_what_cannot_be_compared_is_refused():
    scoring = WordScoring(NAMES, WORDS)
    with pytest.raises(ValueError, match="2 wide"):
        scoring.add(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(AlignmentError, match="holds nan"):
        scoring.add(torch.full((1, 2), math.nan), torch.ones(1, 3))
    with pytest.raises(AlignmentError, match="labels: row 0"):
        scoring.add(torch.ones(1, 2), torch.tensor([[0, math.nan, 0]]))
    with pytest.raises(AlignmentError, match="vectors: row 1 of 3 holds nan"):
        WordScoring(NAMES, torch.tensor([[0.0, 2], [math.nan, 0], [1, 1]]))
    with pytest.raises(AlignmentError, match="mean: row 0 of 1 holds inf"):
        WordScoring(NAMES, WORDS, torch.tensor([0.0, math.inf]))
    for names, vectors, mean in (("abc", WORDS, None), (("up", "up", "slope"), WORDS, None), (NAMES, WORDS, torch.ones(3))):
        with pytest.raises(ValueError, match=r"names|mean"):
            WordScoring(names, vectors, mean)
    with pytest.raises(ValueError, match="no names"):
        WordScoring((), torch.zeros(0, 2)).add(torch.ones(1, 2), torch.zeros(1, 0))
    # without a direction it would be nearest to all that all others turn their backs on
    for vectors, mean in ((torch.tensor([[0.0, 2], [0, 0], [1, 1]]), None), (WORDS, WORDS[1])):
        with pytest.raises(AlignmentError, match=r"vector of 'right' \(1 of 3 words\)"):
            WordScoring(NAMES, vectors, mean).add(TOKENS, LABELS)
    scoring.add(TOKENS, torch.zeros(6, 3))
    with pytest.raises(AlignmentError, match="none of the 6 tokens has a label"):
        scoring.scores()


def test_names_of_one_vector_are_one_word():
    for names in (("circle", "circles", "square"), ("square", "circles", "circle")):
        vectors = torch.stack([torch.tensor([0.0, 1] if name == "square" else [0.3, 0.1]) for name in names])
        scoring = WordScoring(names, vectors)
        scoring.add(vectors, torch.eye(3))
        found = scoring.scores()
        assert found.accuracy == found.class_mean == 1
        # said of all, "circle" is right of two, and so is "circles"
        assert found.most_frequent == pytest.approx(2 / 3)
        assert found.chance == pytest.approx((2 + 2 + 1) / 9)


def test_a_token_of_zeros_is_near_to_nothing():
    scoring = WordScoring(NAMES, WORDS)
    scoring.add(torch.zeros(2, 2), torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
    assert scoring.scores().by_label == {"up": (1, 0), "right": (1, 0)}
    assert scoring.scores().alignment == 0


@pytest.mark.parametrize("scale", [1e-30, 1e-200, 1e200])
def test_lengths_do_not_count(scale):
    scoring, scaled = WordScoring(NAMES, WORDS), WordScoring(NAMES, WORDS.double() * scale)
    scoring.add(TOKENS, LABELS)
    scaled.add(TOKENS.double() * scale, LABELS)
    assert scaled.scores().alignment == pytest.approx(scoring.scores().alignment)
    assert scaled.scores().by_label == scoring.scores().by_label


@pytest.mark.parametrize("hard", [False, True])
def test_labels_of_what_is_no_number_are_none(hard):
    coverage = torch.tensor([[1.0, 0], [0, 1]])
    found = token_labels(coverage, torch.tensor([[math.nan, 1], [0, 1]]), hard=hard)
    assert found[0].isnan().any()
    assert found[1].tolist() == [0, 1]


def test_what_each_picture_adds_is_counted_without_rounding():
    """Pictures of two models are told to be equal, higher or lower by it."""
    scoring, added = WordScoring(["a", "b", "c"], torch.eye(3)), []
    words = torch.arange(7) % 3
    for right in range(8):
        before = scoring.sums
        said = torch.where(torch.arange(7) < right, words, (words + 1) % 3)
        scoring.add(torch.eye(3)[said], torch.eye(3)[words])
        added.append(tuple(now - then for now, then in zip(scoring.sums, before, strict=True)))
    assert added == [(7, right, right) for right in range(8)]
