"""Pursuit against combinations that were planted, and against a search through every word."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.pursuit import SAID, matching_pursuit
from pargo_mllm.alignment.vocabulary import Vocabulary


def vocabulary_of(table):
    return Vocabulary.of_table(table)


def by_hand(token, table, steps, non_negative=False, centred=False, allowed=None):
    """Every word tried in fp64, one token at a time: words and coefficients, -1 and 0 where nothing is left to say."""
    table = table.double().numpy()
    mean = table.mean(axis=0).astype(np.float32).astype(np.float64) if centred else np.zeros(table.shape[1])
    offsets = table - mean
    sizes = np.linalg.norm(offsets, axis=1)
    usable = sizes > 1e-6 * np.linalg.norm(table, axis=1)
    if allowed is not None:
        usable &= allowed.numpy()
    words, coefficients = [], []
    value = token.double().numpy() - mean
    residual = value.copy()
    for _ in range(steps):
        word, coefficient, size = -1, 0.0, np.linalg.norm(residual)
        if size > SAID * np.linalg.norm(value):
            fits = [
                float(row @ residual / (length * size)) if good else None
                for row, length, good in zip(offsets, sizes, usable, strict=True)
            ]
            ranked = [-math.inf if fit is None else fit if non_negative else abs(fit) for fit in fits]
            best = max(ranked)
            if best > 1e-9:
                word = next(index for index, fit in enumerate(ranked) if fit >= best * (1 - 1e-9))
                coefficient = fits[word] * size
                residual = residual - coefficient * offsets[word] / sizes[word]
        words.append(word)
        coefficients.append(coefficient)
    return words, coefficients


def orthonormal(size, seed=0):
    return torch.linalg.qr(torch.randn(size, size, generator=torch.manual_seed(seed), dtype=torch.float64))[0]


@pytest.mark.parametrize("non_negative", [False, True])
@pytest.mark.parametrize("centred", [False, True])
def test_a_planted_combination_of_words_at_right_angles_is_found(non_negative, centred):
    directions = orthonormal(32)
    generator = torch.manual_seed(3)
    lengths = 0.5 + torch.rand(32, 1, generator=generator, dtype=torch.float64)
    # pairs around a mean that all words share, so that it is their mean and directions stay what they are
    shared = 4 * torch.randn(32, generator=generator, dtype=torch.float64) if centred else 0
    table = shared + (torch.cat([lengths, -lengths]) * directions.repeat(2, 1) if centred else lengths * directions)
    planted = torch.stack([torch.randperm(32, generator=generator)[:4] for _ in range(20)])
    sizes = torch.tensor([4.0, 3, 2, 1], dtype=torch.float64).expand(20, 4)
    tokens = shared + torch.einsum("tk,tkc->tc", sizes, directions[planted])
    found = matching_pursuit(tokens, vocabulary_of(table), 6, non_negative=non_negative, centred=centred)
    # of a pair either word says it, once added and once taken away
    assert torch.equal(found.words[:, :4] % 32, planted)
    assert (found.words[:, 4:] == -1).all()
    assert found.num_words.tolist() == [4] * 20
    signs = torch.where(found.words[:, :4] < 32, 1, -1)
    torch.testing.assert_close(found.coefficients[:, :4] * signs, sizes.float(), rtol=0, atol=1e-5)
    assert not non_negative or (signs > 0).all()
    explained = torch.tensor([16.0, 25, 29, 30, 30, 30]) / 30
    torch.testing.assert_close(found.explained, explained.expand(20, 6), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.cosine, explained.sqrt().expand(20, 6), rtol=0, atol=1e-5)


def hadamard(size):
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def test_fitted_again_a_planted_combination_of_words_that_overlap_is_found():
    # two bases whose words meet at cosines of 1/8 at most: any four words are recovered (Tropp 2004: fewer than (1 + 8) / 2)
    table = torch.cat([torch.eye(64, dtype=torch.float64), hadamard(64) / 8])
    generator = torch.manual_seed(5)
    planted = torch.stack([torch.randperm(128, generator=generator)[:4] for _ in range(50)])
    sizes = (1 + torch.rand(50, 4, generator=generator, dtype=torch.float64)) * torch.tensor([1.0, -1, 1, -1])
    tokens = torch.einsum("tk,tkc->tc", sizes, table[planted])
    found = matching_pursuit(tokens, vocabulary_of(table), 5, centred=False, orthogonal=True)
    assert (found.words[:, 4] == -1).all()
    in_order, places = found.words[:, :4].sort(dim=1)
    assert torch.equal(in_order, planted.sort(dim=1).values)
    expected = sizes.gather(1, planted.argsort(dim=1)).float()
    torch.testing.assert_close(found.coefficients[:, :4].gather(1, places), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.explained[:, 4], torch.ones(50), rtol=0, atol=1e-6)
    # and no pursuit without a new fit is better
    plain = matching_pursuit(tokens, vocabulary_of(table), 5, centred=False)
    assert (plain.explained[:, 3] <= found.explained[:, 3]).all()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_it_says_what_a_search_through_every_word_says(data):
    """Whole numbers: rows that are equal, opposite or zero, words that fit equally well, tokens of zeros."""
    width, rows = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 21))
    numbers = st.integers(-2, 2)
    table = torch.tensor(data.draw(st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=rows, max_size=rows)))
    tokens = torch.tensor(data.draw(st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=1, max_size=4)))
    allowed = torch.tensor(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    allowed[data.draw(st.integers(0, rows - 1))] = True
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
    options = {"non_negative": data.draw(st.booleans()), "centred": data.draw(st.booleans())}
    table, tokens = table.to(dtype), tokens.float()
    chunk = data.draw(st.sampled_from([None, 1, 9, 16]))
    found = matching_pursuit(tokens, Vocabulary(table, allowed), 3, chunk=chunk, **options)
    for token, words, coefficients in zip(tokens, found.words, found.coefficients, strict=True):
        expected, sizes = by_hand(token, table, 3, allowed=allowed, **options)
        assert words.tolist() == expected
        assert coefficients.tolist() == pytest.approx(sizes, abs=1e-5)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("non_negative", [False, True])
def test_scores_that_were_rounded_decide_nothing(dtype, non_negative, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    generator = torch.manual_seed(7)
    table = (torch.randn(1999, 48, generator=generator) + 0.5).to(dtype)
    tokens = torch.randn(60, 48, generator=generator).bfloat16()
    found = matching_pursuit(tokens, vocabulary_of(table.to(device)), 4, non_negative=non_negative)
    mean = table.double().mean(dim=0).float().double()
    directions = torch.nn.functional.normalize(table.double() - mean, dim=1)
    residual = tokens.double() - mean
    for step in range(4):
        fits = residual @ directions.T
        words = (fits if non_negative else fits.abs()).argmax(dim=1)
        assert torch.equal(found.words[:, step], words)
        residual -= fits.gather(1, words[:, None]) * directions[words]
        said = tokens.double() - mean - residual
        cosine = torch.cosine_similarity(said, tokens.double() - mean)
        torch.testing.assert_close(found.cosine[:, step], cosine.float(), rtol=0, atol=1e-5)
    for chunk in (1, 100, 640, 5000):
        other = matching_pursuit(tokens, vocabulary_of(table.to(device)), 4, non_negative=non_negative, chunk=chunk)
        assert torch.equal(other.words, found.words)
        assert torch.equal(other.coefficients, found.coefficients)


def test_more_words_than_can_be_looked_at_again_lie_within_rounding():
    generator = torch.manual_seed(11)
    one = torch.randn(32, generator=generator)
    table = one + 1e-4 * torch.randn(3000, 32, generator=generator)
    tokens = torch.stack([one, table[1234], -table[77], torch.randn(32, generator=generator)])
    found = matching_pursuit(tokens, vocabulary_of(table), 2, centred=False)
    for token, words in zip(tokens, found.words, strict=True):
        assert words.tolist() == by_hand(token, table, 2)[0]
    # thousands of equal rows: the first
    equal = matching_pursuit(tokens, vocabulary_of(one.expand(3000, 32).clone()), 2, centred=False)
    assert equal.words[:, 0].tolist() == [0, 0, 0, 0]
    assert equal.words[0, 1] == -1


def test_batches_of_tokens_are_one(monkeypatch):
    generator = torch.manual_seed(13)
    table, tokens = torch.randn(100, 8, generator=generator), torch.randn(9, 8, generator=generator)
    whole = matching_pursuit(tokens, vocabulary_of(table), 3)
    monkeypatch.setattr("pargo_mllm.alignment.pursuit._TOKENS", 4)
    for name, value in vars(matching_pursuit(tokens, vocabulary_of(table), 3)).items():
        assert torch.equal(value, getattr(whole, name)), name
    assert matching_pursuit(tokens[:0], vocabulary_of(table), 3).words.shape == (0, 3)


def test_fitted_again_cosines_are_those_of_the_best_fit():
    generator = torch.manual_seed(17)
    table, tokens = torch.randn(300, 24, generator=generator), torch.randn(12, 24, generator=generator)
    found = matching_pursuit(tokens, vocabulary_of(table), 5, orthogonal=True)
    mean = table.double().mean(dim=0)
    directions = torch.nn.functional.normalize(table.double() - mean, dim=1)
    for token, words, coefficients, cosine, explained in zip(tokens, *vars(found).values(), strict=True):
        value = token.double() - mean
        for step in range(5):
            chosen = directions[words[: step + 1]].T
            fitted = torch.linalg.lstsq(chosen, value[:, None]).solution
            said = (chosen @ fitted)[:, 0]
            assert float(cosine[step]) == pytest.approx(float(torch.cosine_similarity(said, value, dim=0)), abs=1e-5)
            assert float(explained[step]) == pytest.approx(1 - float((value - said).norm() / value.norm()) ** 2, abs=1e-5)
        torch.testing.assert_close(coefficients.double(), fitted[:, 0], rtol=0, atol=1e-5)


def test_tokens_of_zeros_say_nothing():
    found = matching_pursuit(torch.zeros(2, 3), vocabulary_of(torch.eye(3)), 2, centred=False)
    assert (found.words == -1).all()
    assert not any(value.any() for value in (found.coefficients, found.cosine, found.explained, found.num_words))


def test_a_word_that_is_said_twice_is_one():
    table = torch.tensor([[1.0, 0], [0.8, 0.6]])
    found = matching_pursuit(torch.tensor([[1.0, 1.2]]), vocabulary_of(table), 6, centred=False)
    assert found.words[0].tolist() == [1, 0, 1, 0, 1, 0]
    assert found.num_words.tolist() == [2]


def test_the_modalities_own_mean():
    generator = torch.manual_seed(19)
    table, tokens = torch.randn(50, 6, generator=generator), torch.randn(8, 6, generator=generator) + 3
    moved = tokens - tokens.mean(0) + vocabulary_of(table).mean
    expected = matching_pursuit(moved, vocabulary_of(table), 3)
    found = matching_pursuit(tokens, vocabulary_of(table), 3, token_mean=tokens.mean(0))
    assert torch.equal(found.words, expected.words)
    torch.testing.assert_close(found.cosine, expected.cosine, rtol=0, atol=1e-5)


def test_a_model_that_scales_its_embeddings():
    generator = torch.manual_seed(23)
    table, tokens = torch.randn(50, 6, generator=generator), torch.randn(8, 6, generator=generator)
    expected = matching_pursuit(tokens, vocabulary_of(8 * table), 3)
    scaled = Vocabulary(table, torch.ones(50, dtype=torch.bool), scale=8.0)
    assert torch.equal(matching_pursuit(tokens, scaled, 3).words, expected.words)


def test_what_is_no_number_is_refused():
    broken = torch.eye(3)
    broken[2, 1] = math.nan
    with pytest.raises(AlignmentError, match="tokens: row 2 of 3 holds nan"):
        matching_pursuit(broken, vocabulary_of(torch.eye(3)))
    with pytest.raises(AlignmentError, match="row 2 of the embeddings"):
        vocabulary_of(broken)
    with pytest.raises(AlignmentError, match="none of the 3 rows"):
        Vocabulary(torch.eye(3), torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="4 wide"):
        matching_pursuit(torch.eye(3), vocabulary_of(torch.eye(4)))
    with pytest.raises(ValueError, match="orthogonal or non_negative"):
        matching_pursuit(torch.eye(3), vocabulary_of(torch.eye(3)), orthogonal=True, non_negative=True)
    for options in ({"chunk": 0}, {"chunk": -1}, {"num_words": 0}, {"num_words": 2.5}):
        with pytest.raises(ValueError, match="must be a whole number, at least 1"):
            matching_pursuit(torch.eye(3), vocabulary_of(torch.eye(3)), **options)
    for mean in (torch.zeros(4), torch.zeros(3, 3), torch.zeros(1, 3)):
        with pytest.raises(ValueError, match="token_mean"):
            matching_pursuit(torch.eye(3), vocabulary_of(torch.eye(3)), token_mean=mean)
    with pytest.raises(AlignmentError, match="token_mean: row 0 of 1 holds nan"):
        matching_pursuit(torch.eye(3), vocabulary_of(torch.eye(3)), token_mean=torch.full((3,), math.nan))
    with pytest.raises(AlignmentError, match="beyond fp32"):
        matching_pursuit(1e300 * torch.eye(3).double(), vocabulary_of(torch.eye(3)))


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30])
def test_lengths_of_tokens_do_not_count(scale):
    generator = torch.manual_seed(29)
    table, tokens = torch.randn(50, 6, generator=generator), torch.randn(8, 6, generator=generator).double()
    expected = matching_pursuit(tokens, vocabulary_of(table), 3, centred=False)
    found = matching_pursuit(tokens * scale, vocabulary_of(table), 3, centred=False)
    assert torch.equal(found.words, expected.words)
    torch.testing.assert_close(found.cosine, expected.cosine)
    torch.testing.assert_close(found.explained, expected.explained)


def test_fitted_again_words_that_differ_by_rounding_are_one():
    generator = torch.manual_seed(31)
    words = torch.randn(6, 16, generator=generator)
    table = torch.cat([words, words + 1e-7 * torch.randn(6, 16, generator=generator)])
    found = matching_pursuit(torch.randn(3, 16, generator=generator), vocabulary_of(table), 10, orthogonal=True, centred=False)
    assert ((found.words[:, :6] % 6).sort(dim=1).values == torch.arange(6)).all()
    assert (found.words[:, 6:] == -1).all()
    assert found.coefficients.abs().max() < 100


def test_words_that_were_trained_on_are_looked_at_as_they_are():
    generator = torch.manual_seed(37)
    table, tokens = torch.nn.Parameter(torch.randn(50, 6, generator=generator)), torch.randn(8, 6, generator=generator)
    vocabulary = vocabulary_of(table)
    matching_pursuit(tokens, vocabulary)
    table.grad = torch.randn(50, 6, generator=generator)
    torch.optim.SGD([table], lr=3.0).step()
    expected = matching_pursuit(tokens, vocabulary_of(table.detach().clone()))
    for name, value in vars(matching_pursuit(tokens, vocabulary)).items():
        assert torch.equal(value, getattr(expected, name)), name


MEMORY = """
import torch
from bench.contest.timing import CpuMeter
from pargo_mllm.alignment.pursuit import matching_pursuit
from pargo_mllm.alignment.vocabulary import Vocabulary
torch.set_num_threads(1)
table, tokens = torch.randn(150_000, 16), torch.randn(2_000, 16)
matching_pursuit(tokens[:2], Vocabulary.of_table(table[:100]), 1)
meter = CpuMeter()
assert not meter.why_no_memory, meter.why_no_memory
print(meter.peak(lambda mark: matching_pursuit(tokens, Vocabulary.of_table(table), 2))[1])
"""


@pytest.mark.long
def test_words_times_tokens_are_never_held():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    # all scores would be 1.2 GB in fp32
    assert int(done.stdout) < 400e6
