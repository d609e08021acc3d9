"""Numbers as callers hand them over, and which calls are looked at again."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from pargo_kernels import checks
from pargo_kernels.settings import as_count, as_scale

LARGEST = 2**63 - 1
LARGEST_FP32 = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("value", (0, 1, -3, np.int64(7), np.uint8(200), LARGEST, -LARGEST))
def test_integers_are_counts(value):
    count = as_count("window", value)
    assert type(count) is int
    assert count == int(value)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    (
        (True, TypeError, "window=True is a bool; it must be an int"),
        (np.bool_(True), TypeError, "it must be"),
        (2.0, TypeError, "window=2.0 is a float"),
        (None, TypeError, "window=None is a NoneType"),
        (np.arange(2), TypeError, "it must be one int"),
        (torch.tensor(3), TypeError, "window is a tensor; it must be an int: pass window.item()"),
        (LARGEST + 1, ValueError, "window is an integer of 64 bits"),
        (-LARGEST - 2, ValueError, "window is an integer of 64 bits"),
    ),
)
def test_other_things_are_no_counts(value, error, words):
    with pytest.raises(error) as caught:
        as_count("window", value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "value", (0, 1, -2, 0.5, 1e-320, np.float32(0.25), np.int64(3), Fraction(1, 4), LARGEST_FP32, -LARGEST_FP32)
)
def test_real_numbers_are_scales(value):
    scale = as_scale(value)
    assert type(scale) is float
    assert scale == float(value)
    assert as_scale(None) is None


@pytest.mark.parametrize(
    ("value", "words"),
    (
        (True, "scale=True; it must be a finite number"),
        ("1", "scale='1'; it must be"),
        (1j, "scale=1j; it must be"),
        (torch.tensor(0.5), "scale is a Tensor; it must be a finite number, not a tensor"),
        (float("nan"), "scale=nan must be"),
        (float("-inf"), "scale=-inf must be"),
        (1.001 * LARGEST_FP32, "at most 3.4e+38"),
        (-1.001 * LARGEST_FP32, "at most 3.4e+38"),
        (10**400, "scale=a number past the range of float64 must be"),
    ),
)
def test_other_things_are_no_scales(value, words):
    with pytest.raises(ValueError, match=r".") as caught:
        as_scale(value)
    assert words in str(caught.value)


def test_a_call_like_one_that_passed_is_not_looked_at_again(monkeypatch):
    monkeypatch.setattr(checks, "_passed", set())
    monkeypatch.setattr(checks, "MAX_KINDS", 3)
    query = torch.zeros(1, 2, 4, 8)
    kinds = []
    for setting in (1, 1.0, True):
        # equal, and not alike
        kinds.append(checks.passed(query, query, query, setting))
        assert kinds[-1]
        checks.remember(kinds[-1])
    assert all(checks.passed(query, query, query, setting) is None for setting in (1, 1.0, True))
    for other in (query.double(), query[..., :4], query.to("meta"), torch.nn.Parameter(query)[:, :1]):
        assert checks.passed(query, other, query, 1)
    # what is remembered does not grow for ever
    checks.remember(checks.passed(query, query, query, 2))
    assert len(checks._passed) <= 3
    assert checks.passed(query, query, query, 2) is None


def test_some_calls_are_looked_at_every_time(monkeypatch):
    monkeypatch.setattr(checks, "_passed", set())
    query = torch.zeros(1, 2, 4, 8)

    class Another(torch.Tensor):
        pass

    another = query.as_subclass(Another)
    for tensors in ((another, query, query), (query, another, query), (query, query, another)):
        assert checks.passed(*tensors, 1) == ()
    assert checks.passed(query, query, query, []) == ()
    checks.remember(())
    assert not checks._passed
