"""What other packages' kernels are asked to compute is the layout: masks, slices, windows, and the cells they are charged."""

import sys
import types

import pytest
import torch

from bench.contest.provider import Place
from bench.contest.records import INAPPLICABLE, OK
from bench.contest.verify import disagreement, expect
from bench.problems.attention import Cascaded, PartialGlobal
from bench.problems.suites import Case
from bench.rivals.flex import BLOCK_KEYS, Flex, FlexSmallBlocks, FlexSmallRows, mask_mod, visible_blocks
from bench.rivals.magi import BAND, CAUSAL, FULL, INVERSE_CAUSAL, slices_of
from bench.rivals.peers import PROVIDERS
from bench.workloads.attention import make_inputs, measure_attention

PROBLEMS = (
    PartialGlobal(2, 2, 16, 40, 20, 3),
    PartialGlobal(2, 2, 16, 47, 20, 3),  # slices of 2 and 3
    PartialGlobal(1, 2, 16, 180, 20, 3),
    PartialGlobal(1, 2, 16, 21, 21, 1),  # slices of 1: a diagonal
    Cascaded(2, 2, 16, 97, 12),
    Cascaded(2, 2, 16, 97, 13),
    Cascaded(2, 2, 16, 97, 1),
    Cascaded(2, 2, 16, 97, 97),
    Cascaded(2, 2, 16, 97, 12, "truncate"),
    Cascaded(2, 2, 16, 97, 13, "truncate"),
    Cascaded(2, 2, 16, 97, 60, "truncate"),  # rows cut at both borders
    Cascaded(2, 2, 16, 97, 97, "truncate"),
)


def seen(problem):
    """Bool ``[rows, keys]``, row by row in Python."""
    mask = torch.zeros(problem.num_query, problem.num_keys, dtype=torch.bool)
    for row, (begin, end) in enumerate(problem.bounds().tolist()):
        mask[row, begin:end] = True
    return mask


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_the_mask_of_flex_is_the_layout(problem):
    rows, keys = torch.arange(problem.num_query)[:, None], torch.arange(problem.num_keys)
    assert torch.equal(mask_mod(problem, torch.device("cpu"))(0, 0, rows, keys), seen(problem))


def test_torch_recognises_the_mask_of_flex_as_an_interval():
    packing = pytest.importorskip(
        "torch._inductor.kernel.flex.interval_mask_packing", reason="torch before 2.13 has no such pass"
    )
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from torch.fx.experimental.proxy_tensor import make_fx

    def intervals(body):
        problem = PROBLEMS[1]
        lo, hi = (bound.contiguous() for bound in problem.bounds().int().unbind(1))
        indices = [torch.zeros((), dtype=torch.int32) for _ in range(4)]
        with TransformGetItemToIndex():
            graph = make_fx(lambda b, h, row, key, lo, hi: body(lo, hi, row, key), tracing_mode="fake")(*indices, lo, hi)
        with V.set_graph_handler(GraphLowering(graph)):
            return packing.select_packed_mask_intervals(graph)

    assert len(intervals(lambda lo, hi, row, key: (lo[row] <= key) & (key < hi[row]))) == 1
    assert intervals(lambda lo, hi, row, key: (key - lo[row]) * (key - hi[row]) < 0) is None


@pytest.mark.parametrize("provider", [FlexSmallRows(), FlexSmallBlocks(8, 16), Flex()], ids=lambda provider: provider.name)
@pytest.mark.parametrize("problem", (*PROBLEMS, PartialGlobal(1, 1, 16, 576, 288), Cascaded(1, 1, 16, 500, 48)), ids=str)
def test_flex_is_charged_for_the_blocks_that_it_computes(problem, provider):
    from torch.nn.attention.flex_attention import create_block_mask

    rows, keys = {"flex-rows16": (16, 128), "flex-8x16": (8, 16), "flex": (128, 128)}[provider.name]
    sizes = (problem.num_query, problem.num_keys)
    mask = create_block_mask(mask_mod(problem, torch.device("cpu")), None, None, *sizes, device="cpu", BLOCK_SIZE=(rows, keys))
    computed = int(mask.kv_num_blocks.sum() + mask.full_kv_num_blocks.sum())
    assert visible_blocks(problem, rows, keys) == computed
    assert provider.cells(problem) == computed * rows * keys


@pytest.mark.parametrize(
    ("problem", "rows", "share"),
    [
        (PartialGlobal(1, 1, 64, 576, 288), 128, 9 / 15),
        (PartialGlobal(1, 1, 64, 576, 288), 16, 23 / 95),
        (PartialGlobal(1, 1, 64, 9216, 288), 16, 144 / 1368),
        (PartialGlobal(1, 1, 64, 9216, 4608), 128, 144 / 2664),
        (PartialGlobal(1, 1, 64, 9216, 4608), 16, 360 / 20808),
    ],
    ids=str,
)
def test_small_blocks_are_the_fair_form(problem, rows, share):
    """Shares of the grid: a row block sees as many key blocks as its slices reach (counted by hand), the last one all."""
    grid = -(-problem.num_query // rows) * -(-problem.num_keys // BLOCK_KEYS)
    assert visible_blocks(problem, rows, BLOCK_KEYS) / grid == pytest.approx(share)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)])
def test_torch_has_kernels_of_16_rows_with_these_options_and_none_without(monkeypatch, capability):
    """A block of the mask must be a multiple of the tile; torch drops the others, and fails where none is left."""
    from torch._inductor import config
    from torch._inductor.template_heuristics.triton import CUDAConfigHeuristic

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)

    def fitting(options):
        with config.patch(options):
            table = CUDAConfigHeuristic()
            forward = table.get_flex_attn_fwd_configs(64, torch.bfloat16)
            backward = table.get_flex_attn_bwd_configs(64, torch.bfloat16)
        return (
            [c for c in forward if 16 % c.block_m == 0 and BLOCK_KEYS % c.block_n == 0],
            [
                c
                for c in backward
                if not (16 % c.block_m1 or 16 % c.block_m2 or BLOCK_KEYS % c.block_n1 or BLOCK_KEYS % c.block_n2)
            ],
        )

    assert all(fitting(FlexSmallRows.compile_options))
    assert not any(fitting({"max_autotune": True}))


def test_flex_with_small_blocks_is_exact(setting):
    """Forward: torch's flex_attention has no backward on a CPU."""
    rows = measure_attention(Case((PartialGlobal(1, 2, 16, 180, 90, 3),)), 0, [PROVIDERS["flex-rows16"]], setting)
    assert {row.direction: row.status for row in rows} == {"forward": OK, "forward+backward": INAPPLICABLE}


def paint(slices, num_query, num_keys):
    """How often each cell is in a slice, by the shapes' definition: who is cut at the upper right, who at the lower left."""
    cells = torch.zeros(num_query, num_keys, dtype=torch.int32)
    for (first, last), (begin, end), shape in zip(
        slices.rows.tolist(), slices.keys.tolist(), slices.shape.tolist(), strict=True
    ):
        for row in range(first, last):
            for key in range(begin, end):
                right = end - key - (last - row) >= 0 or shape in (FULL, INVERSE_CAUSAL)
                left = key - begin >= row - first or shape in (FULL, CAUSAL)
                cells[row, key] += left and right
    return cells


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_slices_paint_the_layout_once(problem):
    slices = slices_of(problem.bounds())
    assert torch.equal(paint(slices, problem.num_query, problem.num_keys), seen(problem).int())
    if problem.op == "cpp":
        # the band's own shapes, not one slice for each row
        assert len(slices.shape) <= 3


def test_a_painted_slice_looks_as_magi_documents_it():
    """The pictures of its documentation, for two rows by five keys and five rows by two keys."""
    from bench.rivals.magi import Slices

    def picture(rows, keys, shape):
        ranges = (torch.tensor([[0, size]], dtype=torch.int32) for size in (rows, keys))
        return ["".join(map(str, row)) for row in paint(Slices(*ranges, torch.tensor([shape])), rows, keys).tolist()]

    assert picture(2, 5, FULL) == ["11111", "11111"]
    assert picture(2, 5, CAUSAL) == ["11110", "11111"]
    assert picture(2, 5, INVERSE_CAUSAL) == ["11111", "01111"]
    assert picture(2, 5, BAND) == ["11110", "01111"]
    assert picture(5, 2, CAUSAL) == ["00", "00", "00", "10", "11"]
    assert picture(5, 2, INVERSE_CAUSAL) == ["11", "01", "00", "00", "00"]


class PaintedAttention(torch.autograd.Function):
    """Dense attention where the slices paint, on packed tokens ``[tokens, H, D]``; insists on contiguous memory as magi's."""

    @staticmethod
    def forward(ctx, query, key, value, mask):
        ctx.save_for_backward(query, key, value)
        ctx.mask = mask
        return PaintedAttention.dense(query, key, value, mask)

    @staticmethod
    def backward(ctx, grad_out):
        assert grad_out.is_contiguous()
        leaves = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        assert all(leaf.is_contiguous() for leaf in leaves)
        with torch.enable_grad():
            out = PaintedAttention.dense(*leaves, ctx.mask)
        return (*torch.autograd.grad(out, leaves, grad_out), None)

    @staticmethod
    def dense(query, key, value, mask):
        query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
        scores = (query @ key.transpose(1, 2)) * query.shape[-1] ** -0.5
        return (scores.masked_fill(~mask, float("-inf")).softmax(-1) @ value).transpose(0, 1)


@pytest.mark.parametrize("problem", [PROBLEMS[1], PROBLEMS[2], PROBLEMS[4], PROBLEMS[8]], ids=str)
def test_magi_is_given_the_layout_of_every_image(setting, monkeypatch, problem):
    from bench.rivals.magi import Slices

    def flex_flash_attn_func(query, key, value, q_ranges, k_ranges, attn_type_map, *, disable_fwd_atomic_reduction):
        assert {ranges.dtype for ranges in (q_ranges, k_ranges, attn_type_map)} == {torch.int32}
        painted = paint(Slices(q_ranges, k_ranges, attn_type_map), len(query), len(key))
        assert disable_fwd_atomic_reduction
        assert int(painted.max()) == 1
        return PaintedAttention.apply(query, key, value, painted > 0), None

    magi = types.ModuleType("magi_attention.functional.flex_flash_attn")
    magi.flex_flash_attn_func = flex_flash_attn_func
    for name in ("magi_attention", "magi_attention.functional", magi.__name__):
        monkeypatch.setitem(sys.modules, name, magi)
    check(PROVIDERS["magi"], problem, setting)


@pytest.mark.parametrize("problem", [PROBLEMS[4], PROBLEMS[5], PROBLEMS[7]], ids=str)
def test_natten_is_given_its_window(setting, monkeypatch, problem):
    def na1d(query, key, value, kernel_size):
        """As NATTEN documents it, ``[B, n, H, D]``: windows that stay inside, half of an even one's odd key to the left."""
        tokens = query.shape[1]
        start = [min(max(row - kernel_size // 2, 0), tokens - kernel_size) for row in range(tokens)]
        mask = torch.tensor([[begin <= key < begin + kernel_size for key in range(tokens)] for begin in start])
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        scores = (query @ key.transpose(2, 3)) * query.shape[-1] ** -0.5
        return (scores.masked_fill(~mask, float("-inf")).softmax(-1) @ value).transpose(1, 2)

    natten = types.ModuleType("natten.functional")
    natten.na1d = na1d
    for name in ("natten", "natten.functional"):
        monkeypatch.setitem(sys.modules, name, natten)
    check(PROVIDERS["natten"], problem, setting)


def check(provider, problem, setting):
    """Outputs and gradients against the fp64 oracle."""
    inputs = make_inputs(problem, setting)
    attend = provider.build(problem, Place(setting.place.device, torch.float32))
    out = attend(*inputs.leaves)
    grads = torch.autograd.grad(out, inputs.leaves, inputs.grad_out)
    assert disagreement(expect(problem, inputs), inputs, out, grads)[1] is None


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("flex-flash", "pip install --pre flash-attn-4"),
        ("magi", "from source"),
        ("natten", "install page"),
        ("flash-attn", "pip install"),
    ],
)
def test_an_absent_package_is_named_with_the_way_out(monkeypatch, setting, name, way_out):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    reason = PROVIDERS[name].why_not_here(setting.place)
    assert "not installed" in reason
    assert way_out in reason


def test_an_empty_package_of_the_name_is_no_magi(monkeypatch, setting):
    """The registry's magi-attention 0.0.1 has a module and nothing in it."""
    empty = types.ModuleType("magi_attention")
    empty.__path__ = []
    monkeypatch.setitem(sys.modules, "magi_attention", empty)
    assert "is empty" in PROVIDERS["magi"].why_not_here(setting.place)


def test_flash_attn_4_alone_is_no_flash_attn_2(monkeypatch, setting):
    """It lies in the folder flash_attn too, which then has no functions of its own."""
    monkeypatch.setattr("bench.rivals.packages.installed", lambda module: module in ("flash_attn", "flash_attn.cute"))
    asked = []

    def flash_attn_func(query, key, value, window_size):
        asked.append(window_size)
        return query, None

    cute = types.ModuleType("flash_attn.cute")
    cute.flash_attn_func, cute.flash_attn_varlen_func = flash_attn_func, None
    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))
    monkeypatch.setitem(sys.modules, "flash_attn.cute", cute)
    problem = Cascaded(1, 2, 16, 97, 12, "truncate")
    query, key, value = make_inputs(problem, setting).leaves
    assert PROVIDERS["flash-attn"].build(problem, setting.place)(query, key, value).shape == query.shape
    assert asked == [(6, 5)]
