"""The least work of an attention, against counting by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.counts.traffic import fitted_exponent, least_work
from bench.problems.attention import Cascaded, PartialGlobal


def _sees_pgp(row, key, problem):
    begin = row * problem.num_keys // problem.num_partial if row < problem.num_partial else 0
    end = (row + 1) * problem.num_keys // problem.num_partial if row < problem.num_partial else problem.num_keys
    return begin <= key < end


def _sees_cpp(row, key, problem):
    begin = row - problem.window // 2
    if problem.edge == "clamp":
        begin = min(max(begin, 0), problem.num_keys - problem.window)
    return begin <= key < begin + problem.window


def _count(problem, sees):
    """Distinct vectors touched and multiply-adds, cell by cell, of one head: forward and backward."""
    touched = {"forward": set(), "backward": set()}
    products = {"forward": 0, "backward": 0}
    for row in range(problem.num_query):
        touched["forward"] |= {("query", row), ("out", row)}
        touched["backward"] |= {("query", row), ("grad_out", row), ("grad_query", row)}
        for key in range(problem.num_keys):
            if sees(row, key, problem):
                touched["forward"] |= {("key", key), ("value", key)}
                touched["backward"] |= {("key", key), ("value", key), ("grad_key", key), ("grad_value", key)}
                # score and weighted sum; score again, dP, dV, dQ, dK
                products["forward"] += 2
                products["backward"] += 5
    return touched, products


@st.composite
def problems(draw):
    batch, heads, dim = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 8))
    tokens = draw(st.integers(1, 24))
    if draw(st.booleans()):
        return PartialGlobal(batch, heads, dim, tokens, draw(st.integers(1, tokens)), draw(st.integers(0, 3))), _sees_pgp
    edge = draw(st.sampled_from(["clamp", "truncate"]))
    return Cascaded(batch, heads, dim, tokens, draw(st.integers(1, tokens)), edge), _sees_cpp


@given(problems(), st.sampled_from([2, 4]))
def test_least_work_equals_a_count_of_touched_vectors_and_products(drawn, itemsize):
    problem, sees = drawn
    touched, products = _count(problem, sees)
    heads = problem.batch * problem.num_heads
    for direction in ("forward", "backward"):
        work = least_work(problem, direction, itemsize)
        assert work.bytes == len(touched[direction]) * heads * problem.head_dim * itemsize
        assert work.flops == products[direction] * 2 * heads * problem.head_dim
    both = least_work(problem, "forward+backward", itemsize)
    assert both == tuple(sum(parts) for parts in zip(*(least_work(problem, d, itemsize) for d in touched), strict=True))


def test_least_bytes_at_the_papers_shape():
    # 64 images, 16 heads of 64, bf16: 304 rows and 2 x 576 keys in, 304 rows out; backward writes the three gradients
    problem = PartialGlobal(64, 16, 64, 576, 288, 16)
    assert least_work(problem, "forward", 2).bytes == 64 * 16 * 64 * 2 * (304 + 1152 + 304)
    assert least_work(problem, "backward", 2).bytes == 64 * 16 * 64 * 2 * (304 + 1152 + 304 + 304 + 1152)
    # useful cells of one head: 576 of the partial rows, 16 x 576 of the global ones
    assert least_work(problem, "forward", 2).flops == 64 * 16 * 64 * 4 * 9792


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.1, 2.0])
def test_fitted_exponent_of_a_power_law(exponent):
    sizes = [2304, 4608, 9216, 36864]
    assert fitted_exponent(sizes, [3e-4 * size**exponent for size in sizes]) == pytest.approx(exponent, abs=1e-9)


def test_one_size_has_no_exponent():
    with pytest.raises(ValueError, match="at least two different sizes"):
        fitted_exponent([576, 576], [1.0, 1.1])
