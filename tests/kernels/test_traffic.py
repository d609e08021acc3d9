"""What the kernels move and compute: the count from the tile schedule, against the interpreter's real loads, stores, dots."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import InterpreterBuilder

from bench.counts.schedule import cascaded_work, partial_global_work
from pargo_kernels.dispatch import interpreting
from pargo_kernels.reference import cascaded_mask
from pargo_kernels.triton_path.cascaded import backward_launches, forward_launches
from pargo_kernels.triton_path.held import run
from tests.kernels.made.corners import CORNERS, cascaded, partial_global

ARCH = "sm_90"  # whose lines the interpreter runs
LOAD, STORE, DOT = (getattr(InterpreterBuilder, name) for name in ("create_masked_load", "create_masked_store", "create_dot"))


class Meter:
    """Counts what passes through the interpreter while it is on: floats only, index reads stay in the caches."""

    def __init__(self, monkeypatch):
        self.bytes = self.flops = 0

        def create_masked_load(builder, pointers, mask, *rest):
            self._move(pointers, mask)
            return LOAD(builder, pointers, mask, *rest)

        def create_masked_store(builder, pointers, value, mask, *rest):
            self._move(pointers, mask)
            return STORE(builder, pointers, value, mask, *rest)

        def create_dot(builder, a, b, *rest):
            self.flops += 2 * a.data.shape[0] * a.data.shape[1] * b.data.shape[1]
            return DOT(builder, a, b, *rest)

        for method in (create_masked_load, create_masked_store, create_dot):
            monkeypatch.setattr(InterpreterBuilder, method.__name__, method)

    def _move(self, pointers, mask):
        element = pointers.get_element_ty()
        if element.is_floating():
            self.bytes += int(np.count_nonzero(mask.data)) * element.primitive_bitwidth // 8

    def take(self):
        counted, self.bytes, self.flops = (self.bytes, self.flops), 0, 0
        return counted


@pytest.fixture
def meter(kernels, monkeypatch):
    if not interpreting():
        pytest.skip("loads and stores are counted in Triton's interpreter: TRITON_INTERPRET=1")
    return Meter(monkeypatch)


LAYOUTS = CORNERS | {
    "more global rows than a block, several chunks": partial_global(40, 70, 1100, dim=16),
    "long slices, several chunks": partial_global(4, 2, 2100, dim=16),
    "band of odd width": cascaded(130, 0, 33),
    "truncated band": cascaded(130, 10, 40, edge="truncate"),
}


@pytest.mark.parametrize("grad_lse", (False, True), ids=("", "lse gradient"))
@pytest.mark.parametrize("name", LAYOUTS)
def test_schedule_counts_what_the_kernels_move_and_compute(meter, name, grad_lse):
    problem = LAYOUTS[name]._replace(dtype=torch.float16)
    query, key, value, grad_out, dlse = problem.tensors("cpu")
    leaves = [t.detach().requires_grad_() for t in (query, key, value)]
    counted = {}
    meter.take()
    out, lse = problem(*leaves, return_lse=True, impl="triton")
    counted["forward"] = meter.take()
    torch.autograd.grad(*(((out, lse), leaves, (grad_out, dlse)) if grad_lse else (out, leaves, grad_out)))
    counted["backward"] = meter.take()
    for direction in counted:
        assert work(problem, direction, query, grad_lse) == counted[direction], direction


def work(problem, direction, query, grad_lse):
    arguments, sizes = problem.arguments, (direction, tuple(query.shape), problem.kv_heads)
    if problem.op == "cascaded":
        band = (arguments["num_partial"], arguments["window"], arguments["edge"])
        return cascaded_work(*sizes, *band, query.dtype, ARCH, grad_lse=grad_lse)
    offsets = arguments.get("cu_seqlens_k")
    lengths = [problem.num_keys] * problem.batch if offsets is None else offsets.diff().tolist()
    packed = offsets is not None
    return partial_global_work(*sizes, lengths, arguments["num_partial"], query.dtype, ARCH, packed=packed, grad_lse=grad_lse)


@pytest.mark.parametrize("edge", ("clamp", "truncate"))
@pytest.mark.parametrize("window", (1, 2, 33, 64, 150, 200))
def test_a_block_reads_what_it_sees_once_and_nothing_else(kernels, monkeypatch, window, edge):
    """So no tile is visited that holds no visible cell: blocks of rows read keys, blocks of keys read rows."""
    if not interpreting():
        pytest.skip("loads are watched in Triton's interpreter: TRITON_INTERPRET=1")
    num_partial, num_tokens = 200, 230
    problem = cascaded(num_partial, 30, window, edge, dim=16, heads=1)._replace(dtype=torch.float16)
    query, key, value, grad_out, lse = problem.tensors("cpu")
    like = torch.empty_like
    settings = (window, num_partial, edge, 0.25)
    launches = [
        *forward_launches(query, key, value, like(query), lse, *settings),
        *backward_launches(grad_out, None, query, key, value, query, lse, like(query), like(key), like(key), *settings),
    ]
    visible = cascaded_mask(num_partial, num_tokens, window, edge)
    for launch, read, seen, block in zip(
        launches,
        (key, key, grad_out),
        (visible, visible, visible.T),
        (*(launch.constants["BLOCK_M"] for launch in launches[:2]), launches[2].constants["BLOCK_N"]),
        strict=True,
    ):
        rows_read = watch(monkeypatch, read)
        run([launch], query.device)
        begins = [*range(0, num_partial, block), *range(num_partial, num_tokens, block)]
        ends = [min(begin + block, num_partial if begin < num_partial else num_tokens) for begin in begins]
        assert sorted(rows_read) == list(range(len(begins))), launch.kernel.__name__
        for program, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            assert sorted(rows_read[program]) == seen[begin:end].any(0).nonzero().flatten().tolist(), launch.kernel.__name__


def watch(monkeypatch, tensor):
    """{program: rows of ``tensor`` that it has loaded}, filled while kernels run."""
    begin, row = tensor.data_ptr(), tensor.stride(2) * tensor.element_size()
    rows_read = defaultdict(list)

    def create_masked_load(builder, pointers, mask, *rest):
        if pointers.data.ndim == 2:
            present = mask.data.any(axis=1)
            rows = (pointers.data[:, 0].astype(np.int64) - begin)[present] // row
            if len(rows) and rows.min() >= 0 and rows.max() < tensor.shape[2]:
                rows_read[builder.grid_idx[0]].extend(rows.tolist())
        return LOAD(builder, pointers, mask, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", create_masked_load)
    return rows_read
