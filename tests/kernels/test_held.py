"""Launches that are held: from the second call on only addresses are filled in, and no length makes the compiler work again."""

import ctypes
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pargo_kernels.dispatch import interpreting
from pargo_kernels.ops import cascaded_partial_attention, partial_global_attention
from pargo_kernels.triton_path import held
from pargo_kernels.triton_path.launch import Unused
from pargo_kernels.triton_path.tiles import Strided
from tests.kernels.made.corners import NAMES, partial_global, results
from tests.kernels.made.layouts import Problem

compiled_only = pytest.mark.skipif(interpreting(), reason="kernels imported for the interpreter are never compiled")
interpreted_only = pytest.mark.skipif(not interpreting(), reason="needs the interpreter: TRITON_INTERPRET=1")


def at(address, dtype):
    """A tensor of one element at an address: for the interpreter, all that a pointer says."""
    if address == 0:
        return torch.empty(1, dtype=dtype)
    return torch.frombuffer((ctypes.c_byte * dtype.itemsize).from_address(address), dtype=dtype)


class StartedByAddress:
    """A compiled kernel's launcher that runs the interpreted kernel on nothing but the addresses and numbers it is given."""

    def __init__(self, launch, _device):
        self.launch = launch
        self.function = self.packed_metadata = None

    def run(self, x, y, z, _stream, _function, _metadata, _launch_metadata, _enter, _exit, *given):
        args = []
        for kind, value in zip(self.launch.args, given, strict=False):
            if isinstance(kind, Strided):
                address, *strides = value
                args.append(Strided(at(address, kind.base.dtype), *strides))
            elif isinstance(kind, torch.Tensor | Unused):
                args.append(at(value, kind.dtype))
            else:
                assert (value == 0) if kind is None else type(value) is type(kind)
                args.append(kind if kind is None else value)
        assert given[len(args) :] == tuple(self.launch.constants.values())
        self.launch.kernel[x, y, z](*args, **self.launch.constants)


@pytest.fixture
def by_address(monkeypatch):
    monkeypatch.setattr(held, "_interpreted", lambda launches: False)
    monkeypatch.setattr(held, "compiled", StartedByAddress)
    monkeypatch.setattr(held, "driver", SimpleNamespace(active=SimpleNamespace(get_current_stream=lambda device: 0)))
    held.forget()
    yield
    held.forget()


PACKED = {"cu_seqlens_k": torch.tensor([0, 1100, 1106, 1300], dtype=torch.int32)}
CALLS = {
    "one chunk": partial_global(9, 5, 30, dim=20),
    "several chunks": partial_global(4, 3, 1100, dim=16, heads=1),
    "more global rows than a block": partial_global(10, 40, 30, dim=16),
    "no global rows": partial_global(9, 0, 30, dim=16),
    "packed": partial_global(5, 2, 1300, dim=16, heads=1, batch=3, **PACKED),
    "a group, tokens first": partial_global(5, 3, 20, dim=16, heads=4)._replace(strides=("tokens first",) * 4),
    "strided columns": partial_global(5, 3, 20, dim=16)._replace(strides=("strided columns",) * 4),
    "one row offset by an element": partial_global(5, 3, 20, dim=16)._replace(strides=("offset one",) * 4),
    "cascade": Problem("cascaded", 2, 2, 1, 30, 30, 16, {"window": 7, "num_partial": 25, "edge": "clamp", "scale": None}),
}


@interpreted_only
@pytest.mark.parametrize("name", CALLS)
def test_a_held_call_computes_what_a_first_one_does(kernels, by_address, name):
    for seed in range(2):
        # other tensors the second time, and nothing of the first ones left
        problem = CALLS[name]._replace(seed=seed)
        tensors = problem.tensors("cpu")
        exact = results(problem, [t.double() for t in tensors], impl="reference")
        for result, ours, expected in zip(NAMES, results(problem, tensors, impl="triton"), exact, strict=True):
            torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5, msg=lambda text, r=result: f"{r}: {text}")


@interpreted_only
@pytest.mark.parametrize("op", ("partial_global", "cascaded"))
def test_one_tensor_in_three_places_is_not_held_as_one(kernels, by_address, op):
    """A first call with query, key and value the same, and then one like it whose tensors differ."""
    problem = partial_global(9, 3, 12, dim=16, heads=1) if op == "partial_global" else CALLS["cascade"]._replace(kv_heads=2)
    query, key, value, grad_out, grad_lse = problem.tensors("cpu")
    for tensors in ((query, query, query, query, grad_lse), (query, key, value, grad_out, grad_lse)):
        exact = results(problem, [t.double() for t in tensors], impl="reference")
        with torch.no_grad():
            out, lse = problem(*tensors[:3], return_lse=True, impl="triton")
        for ours, expected in zip((out, lse), exact[:2], strict=True):
            torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5)
        # the backward too: the gradient of out may be the query itself
        for ours, expected in zip(results(problem, tensors, impl="triton"), exact, strict=True):
            torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5)


@interpreted_only
def test_the_scale_is_not_held(kernels, by_address):
    problem = partial_global(9, 3, 50, dim=16)
    for scale in (0.3, 1.7):
        call = problem._replace(arguments=problem.arguments | {"scale": scale})
        tensors = call.tensors("cpu")
        exact = results(call, [t.double() for t in tensors], impl="reference")
        for ours, expected in zip(results(call, tensors, impl="triton"), exact, strict=True):
            torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5)


def attend_both_ways(rows, keys, dim=64, window=None, offsets=None, **options):
    query, key = (torch.empty(1, 2, n, dim, dtype=torch.bfloat16, requires_grad=True) for n in (rows, keys))
    if window is None:
        out = partial_global_attention(query, key, key, rows - 16, cu_seqlens_k=offsets, impl="triton", **options)
    else:
        out = cascaded_partial_attention(query, query, query, window, impl="triton", **options)
    torch.autograd.grad(out, query, torch.empty_like(out))


# sizes that differ in what a compiler likes to specialise on: 1, multiples of 16, the number of chunks
SAME = {
    "a token more": [{"rows": 288, "keys": 288, "window": 48}, {"rows": 289, "keys": 289, "window": 48}],
    "windows": [{"rows": 288, "keys": 288, "window": w} for w in (16, 17, 1, 288)],
    "partial rows": [{"rows": 304, "keys": 576}, {"rows": 305, "keys": 578}],
    "one chunk and several": [{"rows": 304, "keys": 576}, {"rows": 1040, "keys": 2048}],
    "offsets anywhere": [
        {"rows": 20, "keys": 40, "offsets": torch.tensor([0, 0, 40], dtype=torch.int32)[1:]},
        {"rows": 20, "keys": 41, "offsets": torch.tensor([0, 41], dtype=torch.int32)},
    ],
}


@compiled_only
@pytest.mark.parametrize("name", SAME)
def test_another_length_compiles_nothing(name):
    from bench.stub_driver import stub_driver

    with stub_driver(compiling=False) as wanted:
        attend_both_ways(**SAME[name][0])
        first = list(wanted)
        for sizes in SAME[name][1:]:
            attend_both_ways(**sizes)
    merges = {"merge_chunk_outputs", "merge_chunk_gradients"} if name == "one chunk and several" else set()
    assert first
    assert set(wanted[len(first) :]) == merges


@compiled_only
def test_few_kernels_serve_a_model_whatever_the_sizes():
    from bench.micro import count_kernels

    first, further = count_kernels(200)
    # slices of one, two to three, four and more keys, and longer than a tile; in pictures of one size and packed
    assert first["partial_global_forward"] <= 8
    assert first["partial_global_backward"] <= 8
    assert first.total() <= 25
    assert further.total() == 0


@compiled_only
def test_what_is_compiled_ahead_is_what_a_launch_looks_for(tmp_path, monkeypatch):
    """One entry in Triton's cache: the launch finds it and compiles nothing itself."""
    from triton import knobs

    from bench.stub_driver import stub_driver
    from pargo_kernels.triton_path.compile_ahead import compile_launch
    from pargo_kernels.triton_path.partial_global import forward_launches

    monkeypatch.setattr(knobs.cache, "dir", str(tmp_path))
    query, key = (torch.empty(1, 2, n, 64, dtype=torch.bfloat16, device="meta") for n in (30, 28))
    lse = torch.empty(query.shape[:3], device="meta")
    (launch,) = forward_launches(query, key, key, None, query, lse, 14, 0.1, "sm_90")
    compile_launch(launch, "sm_90")
    hits = []
    monkeypatch.setattr(knobs.compilation, "listener", lambda **told: hits.append(told["cache_hit"]))
    with stub_driver(), torch.no_grad():
        # another batch, other lengths, the same kernel
        query, key = (torch.empty(3, 2, n, 64, dtype=torch.bfloat16) for n in (41, 61))
        partial_global_attention(query, key, key, 25, impl="triton")
    assert hits == [True]


def test_rows_are_moved_in_the_widest_units_that_suit_all(kernels):
    from pargo_kernels.triton_path.tiles import strided

    def unit(*tensors):
        units = {x.unit for x in strided(*tensors)}
        assert len(units) == 1
        return units.pop()

    whole = torch.empty(2, 3, 5, 72, dtype=torch.bfloat16)
    assert unit(whole, whole.transpose(1, 2), whole[1:], whole[:1].expand(4, -1, -1, -1)) == 8
    for width, expected in ((80, 8), (76, 4), (74, 2), (73, 1)):
        assert unit(whole, torch.empty(2, 3, 5, width, dtype=torch.bfloat16)[..., :72]) == expected
    for offset, expected in ((8, 8), (4, 4), (2, 2), (1, 1)):
        flat = torch.empty(whole.numel() + offset, dtype=torch.bfloat16)
        assert unit(whole, flat[offset:].view_as(whole)) == expected
    assert unit(whole.float()) == 4
    (apart,) = strided(whole.transpose(2, 3))
    assert (apart.unit, apart.dim, apart.apart) == (1, 72, 1)
    (two,), (one,) = (strided(whole[..., :columns, :].transpose(2, 3)) for columns in (2, 1))
    assert (two.unit, two.dim, two.apart) == (1, 72, 1)
    # a single column lies beside itself
    assert (one.dim, one.apart) == (1, 0)
    # what is never stepped over does not count
    assert unit(torch.empty(1, 1, 5, 73, dtype=torch.bfloat16)[:, :, :1, :72]) == 8


@compiled_only
def test_sizes_and_strides_are_held_apart():
    """Calls that differ in anything a launch holds do not share it."""
    from bench.stub_driver import stub_driver
    from pargo_kernels.triton_path.partial_global import _forward

    def call(batch=1, heads=2, rows=20, keys=40, dim=64, dtype=torch.bfloat16, num_partial=10, first=0, swapped=False):
        sizes = ((batch, heads, n, dim) for n in (rows, keys))
        query, key = (torch.empty(np.prod(size) + first, dtype=dtype)[first:].view(size) for size in sizes)
        if swapped:
            key = key.transpose(1, 2).contiguous().transpose(1, 2)
        partial_global_attention(query, key, key, num_partial, impl="triton")

    changes = (
        {}, {"batch": 2}, {"heads": 1}, {"rows": 21}, {"keys": 41}, {"dim": 72}, {"dtype": torch.float16}, {"num_partial": 11},
        {"first": 1}, {"swapped": True},
    )  # fmt: skip
    with stub_driver(compiling=False), torch.no_grad():
        for change in changes:
            call(**change)
            call(**change)
        assert len(_forward.held) == len(changes)
        launches = [entry.launches[0] for entry in _forward.held.values()]
    for one, other in itertools.combinations(launches, 2):
        assert one[1:] != other[1:] or one.kernel is not other.kernel
