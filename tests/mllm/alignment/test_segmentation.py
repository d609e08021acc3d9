"""IoU, ranking and maps against counting by hand."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.segmentation import Overlap, Segmentation, ranking, said_at, word_maps
from pargo_mllm.data.regions import Pixels, Region

WORDS = ("cup", "dog", "kite")


def counted_iou(pictures, word, inside):
    """Pixel by pixel: of [(said, {word: mask})] the intersection over the union of one word."""
    both = either = 0
    for said, masks in pictures:
        for place in np.ndindex(said.shape):
            if inside and not any(mask[place] for mask in masks.values()):
                continue
            is_said, is_masked = said[place] == word, word in masks and bool(masks[word][place])
            both += is_said and is_masked
            either += is_said or is_masked
    return both / either


def random_pictures(seed, count=3, size=(5, 7)):
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(0, 3, size), {word: rng.random(size) < 0.3 for word in range(3) if rng.random() < 0.7 or word == 0})
        for _ in range(count)
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_overlaps_are_what_counting_gives(seed):
    pictures = random_pictures(seed)
    overlap = sum((Overlap.of(said, masks, 3) for said, masks in pictures[1:]), Overlap.of(*pictures[0], 3))
    shown = {word for _, masks in pictures for word, mask in masks.items() if mask.any()}
    for labelled in (False, True):
        found = overlap.iou(labelled)
        for word in range(3):
            if word in shown:
                assert found[word] == pytest.approx(counted_iou(pictures, word, labelled))
            else:
                assert np.isnan(found[word])
        most = int(overlap.masked.argmax())
        everywhere = [(np.full(said.shape, most), masks) for said, masks in pictures]
        by_hand = sum(counted_iou(everywhere, word, labelled) for word in shown) / len(shown)
        assert overlap.most_frequent(labelled) == pytest.approx(by_hand)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=12))
def test_ranking_is_what_pairs_and_thresholds_give(drawn):
    values, inside = np.array([value for value, _ in drawn], float), np.array([one for _, one in drawn])
    if inside.all() or not inside.any():
        assert ranking(values, inside) is None
        return
    auc, ap, chance = ranking(values, inside)
    pairs = list(itertools.product(values[inside], values[~inside]))
    assert auc == pytest.approx(sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs))
    by_hand, before = 0.0, 0.0
    for threshold in sorted(set(values), reverse=True):
        taken = values >= threshold
        recall = (taken & inside).sum() / inside.sum()
        by_hand += (recall - before) * (taken & inside).sum() / taken.sum()
        before = recall
    assert ap == pytest.approx(by_hand)
    assert chance == pytest.approx(inside.mean())


def test_a_patch_speaks_as_the_tokens_that_read_it():
    generator = torch.Generator().manual_seed(0)
    tokens, vectors = torch.randn(4, 6, generator=generator), torch.randn(2, 6, generator=generator)
    mean = torch.randn(6, generator=generator)
    shares = torch.tensor([[0.5, 0.5, 0, 0, 0], [0, 0, 1.0, 0, 0], [0, 0.25, 0.25, 0.5, 0], [0, 0, 0, 0, 0]])
    found = word_maps(tokens, shares, vectors, mean)
    for word, patch in itertools.product(range(2), range(5)):
        readers = [token for token in range(4) if shares[token, patch] > 0]
        cosines = [torch.cosine_similarity(tokens[one] - mean, vectors[word] - mean, dim=0) for one in readers]
        weight = sum(shares[one, patch] for one in readers)
        by_hand = sum(shares[one, patch] / weight * cos for one, cos in zip(readers, cosines, strict=True))
        torch.testing.assert_close(found[word, patch], torch.as_tensor(by_hand, dtype=torch.float32))


def test_any_number_of_words_is_told_apart():
    maps = torch.randn(71, 3, 4, generator=torch.Generator().manual_seed(1))
    assert np.array_equal(said_at(maps, (3, 4)), maps.argmax(0).numpy())
    stretched = torch.nn.functional.interpolate(maps[None], (9, 8), mode="bilinear")[0]
    assert np.array_equal(said_at(maps, (9, 8)), stretched.argmax(0).numpy())
    equal = torch.zeros(40, 2, 2)
    assert not said_at(equal, (2, 2)).any()


def test_a_right_map_is_all_right_and_a_shifted_one_is_not():
    mask = np.zeros((8, 8), bool)
    mask[:, :4] = True
    # beside a thing that the words do not hold, and one in another part of the picture than is seen
    regions = [Region(("dog",), Pixels(mask)), Region(("cup",), Pixels(~mask)), Region(("horse",), (0, 0, 1, 1))]
    maps = torch.zeros(3, 4, 4)
    maps[1, :, :2], maps[0, :, 2:] = 1.0, 1.0
    right = Segmentation(WORDS, 8)
    scored = right.add(maps, regions)
    assert (scored.iou, scored.whole, scored.auc, scored.ap, scored.ap_chance) == pytest.approx((1, 0.5, 1, 1, 0.5))
    wrong = Segmentation(WORDS, 8)
    assert wrong.add(maps.flip(-1), regions).auc == 0
    told = wrong.told()
    assert told["pixels"]["mean_iou"] == told["grid"]["mean_iou"] == 0
    assert told["pixels"]["most_frequent"] == pytest.approx(0.25)
    # mirrored, it is right again
    assert wrong.add(maps.flip(-1), regions, (1.0, 0.0, 0.0, 1.0)).iou == pytest.approx(1)


def test_a_picture_without_any_of_the_words_counts_for_nothing():
    scores = Segmentation(WORDS, 8)
    assert scores.add(torch.zeros(3, 2, 2), [Region(("horse",), (0.0, 0.0, 1.0, 1.0))]) is None
    # too small for a patch: no patch is ranked, and pixels are
    small = scores.add(torch.zeros(3, 2, 2), [Region(("cup",), (0.0, 0.0, 0.25, 0.25))])
    assert (small.auc, small.ap, small.iou) == (None, None, pytest.approx(4 / 64))
    told = scores.told()
    assert (told["pictures"], told["words_shown"], told["by_word"]["cup"]["iou_grid"]) == (1, 1, None)


def test_how_long_tokens_and_words_are_changes_no_map():
    generator = torch.Generator().manual_seed(0)
    tokens, vectors = torch.randn(4, 6, generator=generator), torch.randn(2, 6, generator=generator)
    shares = torch.rand(4, 5, generator=generator)
    expected = word_maps(tokens, shares, vectors)
    for size in (1e-300, 1e-20, 1e30, 1e300):
        torch.testing.assert_close(word_maps(tokens.double() * size, shares, vectors), expected)
        torch.testing.assert_close(word_maps(tokens, shares, vectors.double() * size), expected)


def test_maps_of_any_dtype_count_the_same():
    maps = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    regions = [Region(("dog",), (0.0, 0.0, 0.5, 1.0)), Region(("cup",), (0.5, 0.0, 1.0, 1.0))]
    expected = Segmentation(WORDS, 8).add(maps.float(), regions)
    assert (
        Segmentation(WORDS, 8).add(maps, regions)
        == Segmentation(WORDS, 8).add(maps.clone().requires_grad_(), regions)
        == expected
    )


def test_what_is_no_map_is_refused():
    regions, scores = [Region(("dog",), (0.0, 0.0, 0.5, 1.0))], Segmentation(WORDS, 8)
    for maps, why in (
        (torch.zeros(2, 4, 4), "maps of 2 words must be of 3"),
        (torch.zeros(3, 4), r"must be \[words, rows, columns\]"),
        (torch.zeros(3, 0, 4), r"must be \[words, rows, columns\]"),
        (torch.full((3, 4, 4), float("nan")), "maps: row 0 of 3 holds nan"),
    ):
        with pytest.raises(AlignmentError, match=why):
            scores.add(maps, regions)
    assert scores.told()["pictures"] == 0
    for maps in (torch.zeros(0, 4, 4), torch.full((3, 4, 4), float("nan"))):
        with pytest.raises(AlignmentError):
            said_at(maps, (4, 4))
    for words, side in ((("a", "a"), 8), ("dog", 8), (WORDS, 0)):
        with pytest.raises(AlignmentError, match="must be"):
            Segmentation(words, side)
    tokens, shares, vectors = torch.ones(4, 6), torch.ones(4, 5), torch.ones(2, 6)
    for rows in ((tokens[0], shares, vectors), (tokens, shares[:3], vectors), (tokens, shares, vectors[:, :5])):
        with pytest.raises(AlignmentError, match=r"must be \[tokens, C\]"):
            word_maps(*rows)
    with pytest.raises(AlignmentError, match="words: row 0 of 2 holds nan"):
        word_maps(tokens, shares, vectors * float("nan"))
