"""Agreement of patches and words, against figures that are worked out by hand."""

import math

import pytest
import torch

from pargo_mllm.alignment.errors import AlignmentError
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
    scoring.add(TOKENS, torch.zeros(6, 3))
    with pytest.raises(AlignmentError, match="none of the 6 tokens has a label"):
        scoring.scores()
