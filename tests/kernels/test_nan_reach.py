"""How far a NaN or an infinity reaches (docs/kernels.md): everything outside is, bit for bit, what it is without it."""

import pytest
import torch

from pargo_kernels.dispatch import interpreting
from pargo_kernels.intervals import partial_bounds
from pargo_kernels.ops import cascaded_partial_attention, partial_global_attention
from pargo_kernels.reference import cascaded_mask, partial_global_mask

ARGUMENTS = ("query", "key", "value", "grad_out")
# the widest tile of the kernels
TILE = 128


def together(impl, seen, window=None):
    """Bool ``[rows, keys]``: the keys that a row or one that is computed with it sees."""
    if impl == "triton":
        # tiles may begin anywhere: rows that could share one
        return torch.nn.functional.max_pool1d(seen.float(), 2 * TILE - 1, 1, TILE - 1) > 0
    if window is None:
        return seen
    block = {"torch": max(32, min(window, 128)), "c": 16}[impl]
    row = torch.arange(len(seen))
    same = row[:, None] // block == row // block
    return (same.float() @ seen.float()) > 0


def run(op, tensors):
    query, key, value, grad_out = tensors
    leaves = [t.clone().requires_grad_() for t in (query, key, value)]
    out = op(*leaves)
    return out.detach(), *torch.autograd.grad(out, leaves, grad_out)


def inputs(rows, keys, device, batch=2, dim=16):
    torch.manual_seed(0)
    shapes = (batch, 4, rows, dim), (batch, 2, keys, dim), (batch, 2, keys, dim), (batch, 4, rows, dim)
    return [torch.randn(shape, device=device) for shape in shapes]


CASES = {
    "equal slices": ("pgp", 64, 0, 320, None),
    "unequal slices": ("pgp", 60, 0, 310, None),
    "single keys": ("pgp", 300, 0, 300, None),
    "global rows": ("pgp", 60, 3, 310, None),
    "band": ("cpp", 300, 0, 300, (9, "clamp")),
    "cut band": ("cpp", 300, 0, 300, (12, "truncate")),
    "band and global rows": ("cpp", 280, 20, 300, (9, "clamp")),
}
SMALL = {"small slices": ("pgp", 30, 2, 70, None), "small band": ("cpp", 30, 2, 32, (9, "clamp"))}


def layout(name):
    """The op and which keys each row sees, ``[rows, keys]``."""
    kind, num_partial, num_global, num_keys, band = (CASES | SMALL)[name]
    if kind == "pgp":
        seen = partial_global_mask(num_partial, num_partial + num_global, num_keys)
        return lambda impl: lambda q, k, v: partial_global_attention(q, k, v, num_partial, impl=impl), seen
    seen = cascaded_mask(num_partial, num_keys, *band)
    return (
        lambda impl: (
            lambda q, k, v: cascaded_partial_attention(q, k, v, band[0], num_partial=num_partial, edge=band[1], impl=impl)
        )
    ), seen


def problems():
    """All of them by NaN in the default run; infinity, and all of them where kernels are interpreted, in the long one."""
    for case in CASES:
        for argument in ARGUMENTS:
            for bad in ("nan", "inf"):
                short = bad == "nan" and not interpreting()
                yield pytest.param(case, argument, float(bad), marks=() if short else pytest.mark.long)


@pytest.mark.parametrize(("case", "argument", "bad"), problems())
def test_what_a_bad_number_does_not_reach_is_bitwise_the_same(case, argument, bad, backend):
    op, seen = layout(case)
    _, num_partial, _, _, band = CASES[case]
    parts = [slice(0, num_partial), slice(num_partial, len(seen))]
    spread = torch.cat([together(backend.impl, seen[part], band and band[0]) for part in parts if len(seen[part])])
    clean = inputs(*seen.shape, backend.device)
    dirty = [t.clone() for t in clean]
    # of image 1, the second key head and a query head of its group
    place = 137 if argument in ("key", "value") or num_partial > 137 else 29
    head = 1 if argument in ("key", "value") else 2
    dirty[ARGUMENTS.index(argument)][1, head, place, 5] = bad
    if argument in ("key", "value"):
        rows = spread[:, place]
    else:
        rows = torch.arange(len(seen)) == place
    keys = (spread & rows[:, None]).any(0)
    reached = [torch.zeros(t.shape[:3], dtype=torch.bool) for t in clean[:3]]
    reached[0][1, 2:, rows] = True
    for grad in reached[1:]:
        grad[1, 1, keys] = True
    assert rows.any()
    assert keys.any()
    for got, expected, touched in zip(
        run(op(backend.impl), dirty), run(op(backend.impl), clean), (reached[0], *reached), strict=True
    ):
        assert torch.equal(got[~touched], expected[~touched])
        assert expected.isfinite().all()


@pytest.mark.parametrize("argument", ["value", pytest.param("key", marks=pytest.mark.long)])
def test_packed_images_stay_clean(argument, backend):
    lengths = (70, 130, 90)
    offsets = torch.tensor((0, *lengths), dtype=torch.int32, device=backend.device).cumsum(0, dtype=torch.int32)
    clean = inputs(23, sum(lengths), backend.device, batch=3)
    clean[1:3] = [t[:1].contiguous() for t in clean[1:3]]
    dirty = [t.clone() for t in clean]
    # the last key of the image in the middle
    dirty[ARGUMENTS.index(argument)][0, 0, 199] = float("nan")

    def op(q, k, v):
        return partial_global_attention(q, k, v, 20, cu_seqlens_k=offsets, impl=backend.impl)

    (out, dq, *dkv), expected = run(op, dirty), run(op, clean)
    for got, exact in ((out, expected[0]), (dq, expected[1])):
        assert torch.equal(got[[0, 2]], exact[[0, 2]])
        assert torch.equal(got[1, 2:], exact[1, 2:])
        assert got[1, :2].isnan().any()
    for got, exact in zip(dkv, expected[2:], strict=True):
        assert torch.equal(got[:, :, :70], exact[:, :, :70])
        assert torch.equal(got[:, :, 200:], exact[:, :, 200:])
        assert torch.equal(got[:, 1], exact[:, 1])


@pytest.mark.parametrize("case", SMALL)
def test_a_row_with_no_score_above_minus_infinity_is_blind(case, backend):
    """As one that sees nothing: out 0, lse minus infinity, no gradient; in the oracle too."""
    op, seen = layout(case)
    tensors = inputs(*seen.shape, backend.device, batch=1)
    query, key = tensors[:2]
    row = 21
    query[..., 0], key[..., 0] = 0.0, 1.0
    query[0, 1, row] = 0.0
    query[0, 1, row, 0] = float("-inf")
    results = {}
    for impl in (backend.impl, "reference"):
        out, *grads = run(op(impl), tensors)
        results[impl] = out
        assert (out[0, 1, row] == 0).all()
        assert (grads[0][0, 1, row, 1:] == 0).all()
        assert grads[0][0, [0, 2, 3]].isfinite().all()
    torch.testing.assert_close(results[backend.impl], results["reference"], rtol=1e-4, atol=1e-4)


def test_padding_of_a_short_slice_is_its_own(backend):
    """Slices of 2 and 3 keys: the shorter ones are padded where slices are computed as one batch, by none of the next row's."""
    if backend.impl == "triton":
        pytest.skip("the kernels compute a tile of slices together")
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 1, n, 8, device=backend.device) for n in (4, 11, 11))
    for row, (begin, _) in enumerate(partial_bounds(4, 11).tolist()):
        dirty = value.clone()
        dirty[0, 0, begin:] = float("nan")
        out = partial_global_attention(query, key, dirty, 4, impl=backend.impl)
        assert out[0, 0, :row].isfinite().all()
        assert out[0, 0, row:].isnan().all()
