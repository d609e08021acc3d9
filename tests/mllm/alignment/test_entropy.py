"""Entropies against spectra that are known, and in pieces against all at once."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pargo_mllm.alignment.entropy import StreamedEntropy, von_neumann_entropy
from pargo_mllm.alignment.errors import AlignmentError


def of_spectrum(values, count, width, seed=0):
    """Rows ``[count, width]`` whose products have these eigenvalues, turned at random."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.normal(size=(count, len(values))))[0]
    right = np.linalg.qr(rng.normal(size=(width, len(values))))[0]
    return torch.from_numpy(left * np.sqrt(values) @ right.T)


def by_numpy(rows, centred, normalised):
    """From the d×d matrix, whatever the number of rows."""
    rows = np.asarray(rows, dtype=np.float64)
    if normalised:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if centred:
        rows = rows - rows.mean(axis=0)
    values = np.linalg.eigvalsh(rows.T @ rows)
    shares = values[values > 1e-14 * values.max()] / values.sum()
    return -np.sum(shares * np.log(shares))


@pytest.mark.parametrize("copies", [1, 5])
@pytest.mark.parametrize("normalised", [False, True])
def test_directions_that_are_alike_hold_ln_d(copies, normalised):
    turned = torch.linalg.qr(torch.randn(24, 24, generator=torch.manual_seed(0)))[0]
    assert von_neumann_entropy(turned.repeat(copies, 1), normalised=normalised) == pytest.approx(math.log(24), abs=1e-6)


@pytest.mark.parametrize("count", [3, 40])
def test_one_line_holds_nothing(count):
    rows = torch.linspace(-3, 5, count)[:, None] * torch.randn(16, generator=torch.manual_seed(1))
    assert von_neumann_entropy(rows) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("count", "width"), [(30, 12), (12, 30), (12, 12)])
def test_a_known_spectrum(count, width):
    values = np.array([5.0, 3.0, 1.0, 0.5, 0.5])
    shares = values / values.sum()
    rows = of_spectrum(values, count, width)
    assert von_neumann_entropy(rows, normalised=False) == pytest.approx(-np.sum(shares * np.log(shares)), abs=1e-9)


def test_what_all_tokens_share_is_taken_away():
    # two directions around a far mean, alike
    rows = torch.tensor([[9.0, 1, 0], [9, -1, 0], [9, 0, 1], [9, 0, -1]])
    assert von_neumann_entropy(rows, centred=True) == pytest.approx(math.log(2), abs=1e-9)
    assert von_neumann_entropy(rows) < 0.15


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.booleans(), st.booleans(), st.integers(0, 99))
def test_pieces_say_what_the_whole_says(sizes, centred, normalised, seed):
    rows = torch.randn(sum(sizes) + 2, 8, generator=torch.manual_seed(seed)) + 1
    streamed = StreamedEntropy(centred, normalised)
    for piece in rows.split([*sizes, 2]):
        streamed.add(piece[None])
    assert streamed.value() == pytest.approx(von_neumann_entropy(rows, centred, normalised), abs=1e-9)
    assert streamed.value() == pytest.approx(by_numpy(rows, centred, normalised), abs=1e-6)


def test_never_more_is_kept_than_the_smaller_matrix_takes():
    streamed = StreamedEntropy()
    for _ in range(50):
        streamed.add(torch.randn(7, 10))
    kept = [value for value in vars(streamed).values() if isinstance(value, torch.Tensor)]
    assert not streamed._rows
    assert sum(value.numel() for value in kept) == 10 * 10 + 10


def test_lengths_do_not_count_however_small():
    rows = torch.randn(9, 6, generator=torch.manual_seed(2))
    tiny = rows.double() * torch.logspace(-200, 100, 9, dtype=torch.float64)[:, None]
    assert von_neumann_entropy(tiny) == pytest.approx(von_neumann_entropy(rows), abs=1e-6)


def test_tokens_that_hold_nothing_to_look_at_are_refused():
    with pytest.raises(AlignmentError, match="row 1 of 3 holds nan, and 2 rows"):
        von_neumann_entropy(torch.tensor([[1.0, 2], [1, math.nan], [math.inf, 0]]))
    with pytest.raises(AlignmentError, match="are zero"):
        von_neumann_entropy(torch.zeros(4, 3))
    with pytest.raises(AlignmentError, match="equal"):
        von_neumann_entropy(torch.full((5, 3), 0.1), centred=True)
    with pytest.raises(AlignmentError, match="no token"):
        von_neumann_entropy(torch.zeros(0, 3))
    # a row of zeros among others is none of them
    assert von_neumann_entropy(torch.tensor([[0.0, 0], [1, 0], [0, 1]])) == pytest.approx(math.log(2))


@pytest.mark.parametrize("size", [1, 60, 200])
def test_what_little_differs_around_a_large_mean_is_seen(size):
    directions = torch.randn(200, 4, generator=torch.manual_seed(3), dtype=torch.float64)
    expected = by_numpy(directions, True, False)
    for mean, spread, normalised in ((1e5, 1.0, False), (1e6, 1e-3, False), (0.0, 3.0, False)):
        streamed = StreamedEntropy(True, normalised)
        for piece in (directions * spread + mean).split(size):
            streamed.add(piece)
        assert streamed.value() == pytest.approx(expected, abs=1e-7)
    near = directions * 3e-6 + torch.tensor([1.0, 2, 3, 4])
    streamed = StreamedEntropy(True)
    for piece in near.split(size):
        streamed.add(piece)
    # of what stands at a right angle to the mean, three directions alike
    assert streamed.value() == pytest.approx(by_numpy(near, True, True), abs=1e-6)


def test_tokens_that_change_afterwards_change_nothing():
    tokens = torch.eye(4, dtype=torch.float64)
    streamed = StreamedEntropy(normalised=False)
    streamed.add(tokens)
    tokens.fill_(1)
    assert streamed.value() == pytest.approx(math.log(4))


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_squares_that_no_number_holds_are_told(scale):
    tokens = torch.eye(3, dtype=torch.float64) * scale
    with pytest.raises(AlignmentError, match="fp64 does not hold"):
        von_neumann_entropy(tokens, normalised=False)
    assert von_neumann_entropy(tokens) == pytest.approx(math.log(3))


@pytest.mark.parametrize(
    "tokens", [torch.zeros(4, 0), torch.tensor(1.0), np.eye(3), torch.eye(3).long(), torch.eye(3).bool(), torch.eye(3) + 0j]
)
def test_what_has_no_rows_of_numbers_is_refused(tokens):
    with pytest.raises(ValueError, match="tokens: "):
        von_neumann_entropy(tokens)


def test_numbers_of_a_byte():
    assert von_neumann_entropy(torch.eye(3).to(torch.float8_e4m3fn)) == pytest.approx(math.log(3))
