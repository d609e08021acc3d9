"""What is particular to the kernels in C: their cuts into chunks and segments, their bits, and other widths of vectors."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pargo_kernels import cascaded_partial_attention as cascaded_module
from pargo_kernels import partial_global_attention as partial_global_module
from pargo_kernels.c_path.library import why_not
from tests.kernels.made.corners import NAMES, cascaded, partial_global, results
from tests.kernels.made.layouts import STRIDES

# past 2,048 keys a chunk ends, past 512 rows a segment; lengths that no vector, tile, chunk or segment divides
CUT = {
    "chunks of short slices": partial_global(700, 3, 2501, dim=16),
    "chunks of long slices": partial_global(50, 3, 4201, dim=16),
    "chunks without partial rows": partial_global(0, 3, 4201, dim=16),
    "chunks of packed images": partial_global(
        20, 18, 4200, dim=20, batch=3, cu_seqlens_k=torch.tensor([0, 20, 4177, 4200], dtype=torch.int32)
    ),
    "segments of a narrow band": cascaded(1303, 5, 30, dim=16),
    "segments of a wide band": cascaded(1950, 0, 300, edge="truncate", dim=16),
    "a last segment of one row": cascaded(1025, 0, 511, dim=16),
    # 16 rows see 65 keys
    "a last tile of one key": cascaded(130, 0, 50, dim=16),
    # past a window of 512, or as many global rows, blocks share tiles of keys
    "blocks that see other parts of a tile": cascaded(1303, 5, 600, edge="truncate", dim=16),
    "blocks that see nothing of a tile": cascaded(700, 530, 30, dim=16),
}


@pytest.fixture(scope="module")
def c_path():
    reason = why_not(torch.float32)
    if reason is not None:
        pytest.skip(reason)


def check_equal(found, expected):
    for name, x, y in zip(NAMES, found, expected, strict=True):
        assert torch.equal(x, y), name


@pytest.mark.parametrize("name", CUT)
def test_cuts_are_not_seen(c_path, name):
    problem = CUT[name]
    tensors = problem.tensors()
    for result, x, y in zip(
        NAMES, results(problem, tensors, impl="c"), results(problem, tensors, impl="reference"), strict=True
    ):
        torch.testing.assert_close(x, y, msg=lambda text, result=result: f"{result}: {text}")


@pytest.mark.parametrize("name", ("chunks of short slices", "segments of a narrow band"))
@pytest.mark.parametrize("strides", [strides for strides in STRIDES[1:] if strides != "expanded batch"])
def test_bits_do_not_depend_on_the_layout(c_path, name, strides):
    """Gradients of other layouts are gathered in a buffer, whole heads at a time; the order of every sum is the same."""
    contiguous, moved = (CUT[name]._replace(strides=(kind,) * 4) for kind in ("contiguous", strides))
    check_equal(results(moved, moved.tensors(), impl="c"), results(contiguous, contiguous.tensors(), impl="c"))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_an_image_has_the_same_bits_alone_in_a_batch_and_packed(c_path, dtype):
    batch = partial_global(300, 5, 2500, dim=16, heads=2, kv_heads=2, batch=2)._replace(dtype=dtype)
    tensors = batch.tensors()
    together = results(batch, tensors, impl="c")
    alone = [results(batch, [t[image : image + 1] for t in tensors], impl="c") for image in (0, 1)]
    check_equal([torch.cat(parts) for parts in zip(*alone, strict=True)], together)

    def pack(t):
        return t.transpose(0, 1).flatten(1, 2).unsqueeze(0)

    offsets = torch.tensor([0, 2500, 5000], dtype=torch.int32)
    packed = batch._replace(num_keys=5000, arguments=batch.arguments | {"cu_seqlens_k": offsets})
    query, key, value, grad_out, grad_lse = tensors
    found = results(packed, (query, pack(key), pack(value), grad_out, grad_lse), impl="c")
    check_equal(found, (*together[:3], pack(together[3]), pack(together[4])))


ALL = """
import torch
from tests.kernels.made.corners import CORNERS, results
from tests.kernels.test_c_kernels import CUT
for name, problem in (CORNERS | CUT).items():
    # in memory of just their size: what lies past it is nobody's
    tensors = [tensor.clone() for tensor in problem.tensors()]
    found, exact = (results(problem, tensors, impl=impl) for impl in ("c", "reference"))
    for found, exact in zip(found, exact, strict=True):
        torch.testing.assert_close(found, exact, msg=lambda text: f"{name}: {text}")
print("all right")
"""


@pytest.mark.long
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the options are those of x86 compilers")
@pytest.mark.parametrize(
    "options", ("-mno-avx512f", "-mno-avx", "-D__AVX512F__ -U__znver3__ -U__znver4__", "-D__AVX512F__ -D__znver4__")
)
def test_other_widths_of_vectors_are_right(c_path, tmp_path, options):
    """Of processors that are not this one: 8 lanes in one register, in two; 16 lanes, whole and halved."""
    computed_by(f"cc {options}", tmp_path)


def test_no_memory_is_touched_that_is_not_the_kernels(c_path, tmp_path):
    """Past a tensor, the scratch memory of a thread or an array on the stack, the process ends and says where."""
    if shutil.which("cc") is None:
        pytest.skip("there is no cc: nothing was checked")
    runtimes = [Path(_said_by_cc(f"-print-file-name={name}")) for name in ("libasan.so", "libstdc++.so.6")]
    if not all(runtime.is_absolute() for runtime in runtimes):
        pytest.skip(f"cc has no {runtimes[0].name}: nothing was checked")
    environment = {"LD_PRELOAD": " ".join(map(str, runtimes)), "ASAN_OPTIONS": "detect_leaks=0"}
    computed_by("cc -fsanitize=address", tmp_path, **environment)


def computed_by(compiler, cache, **environment):
    """All corners and cuts, in a process for which that compiler has compiled."""
    environment = os.environ | {"CC": compiler, "XDG_CACHE_HOME": str(cache)} | environment
    done = subprocess.run(
        [sys.executable, "-c", ALL], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "all right" in done.stdout
    assert "compiling" in done.stderr


def _said_by_cc(argument):
    return subprocess.run(["cc", argument], capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_a_bare_op_that_does_not_fit_reaches_no_memory(c_path):
    """Exported programs and direct calls come past the checks of the public ops."""
    query, key, short = torch.zeros(1, 2, 32, 16), torch.zeros(1, 2, 32, 16), torch.zeros(1, 2, 8, 16)
    forward, backward = partial_global_module._ops.forward, partial_global_module._ops.backward
    band = cascaded_module._ops.forward
    for call in (
        lambda: band(query, key, key, 64, 32, "clamp", 1.0, "c"),
        lambda: band(query, key, key, 0, 32, "clamp", 1.0, "c"),
        lambda: band(query, short, short, 4, 8, "clamp", 1.0, "c"),
        lambda: forward(query, short, short[:, :, :4], None, 4, 1.0, "c"),
        lambda: forward(query, short, short, None, 30, 1.0, "c"),
        lambda: forward(query, short, short, None, 33, 1.0, "c"),
        lambda: forward(query, short.bfloat16(), short.bfloat16(), None, 4, 1.0, "c"),
        lambda: forward(query, short.expand(2, 2, 8, 16), short.expand(2, 2, 8, 16), None, 4, 1.0, "c"),
        lambda: backward(query, None, query, key, key, None, query[:, :, :9], query[..., 0], 4, 1.0, "c"),
        lambda: backward(query, None, query, key, key, None, query, query[:, :, :9, 0], 4, 1.0, "c"),
        lambda: backward(query, query[:, :, 0], query, key, key, None, query, query[..., 0], 4, 1.0, "c"),
    ):
        with pytest.raises(ValueError, match=r"must (fit|be)"):
            call()


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
def test_numbers_at_the_edges_of_a_dtype_come_through(c_path, dtype):
    """One token sees itself alone, and its value is what comes out: no rounding, and no infinity that becomes NaN."""
    limits = torch.finfo(dtype)
    edges = [0.0, limits.tiny, -limits.tiny, limits.max, -limits.max, 1 + limits.eps, float("inf"), -float("inf"), float("nan")]
    value = torch.tensor(edges, dtype=dtype).view(1, 1, 1, -1)
    query = torch.ones_like(value)
    found = (
        cascaded_module.cascaded_partial_attention(query, query, value, 1, impl="c"),
        partial_global_module.partial_global_attention(query, query, value, 1, impl="c"),
        partial_global_module.partial_global_attention(query, query, value, 0, impl="c"),
    )
    for out in found:
        torch.testing.assert_close(out, value, rtol=0, atol=0, equal_nan=True)


def test_chunks_that_many_global_rows_lengthen_are_right(c_path):
    """From 128 global rows on a chunk has 16 keys for each of them: here three chunks of 4,800 at most."""
    problem = partial_global(0, 300, 10_000, dim=16, heads=2, kv_heads=2)
    tensors = problem.tensors()
    for x, y in zip(results(problem, tensors, impl="c"), results(problem, tensors, impl="reference"), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("name", ("partial-global", "cascaded"))
@pytest.mark.parametrize("factor", (1e3, 1e7, 1e20))
def test_weights_of_the_backward_sum_to_one_whatever_the_scores(c_path, name, factor):
    """Scores that the backward computed with another rounding than the forward did would differ by more than 1 there."""
    problem = partial_global(5, 20, 60) if name == "partial-global" else cascaded(50, 20, 7)
    query, key, value, *_ = problem.tensors()
    value.requires_grad_()
    problem(query * factor, key, value, impl="c").sum().backward()
    rows = torch.tensor(float(problem.num_query * problem.heads // problem.kv_heads))
    torch.testing.assert_close(value.grad.sum(2), rows.expand(problem.batch, problem.kv_heads, problem.dim), rtol=1e-3, atol=0)


def test_bf16_is_rounded_to_the_nearest_and_ties_to_even(c_path):
    """Means of two neighbours lie half-way between them."""
    even, odd, next_even = 1.0, 1 + 2**-7, 1 + 2**-6
    pairs = torch.tensor(
        [[even, odd], [odd, next_even], [-odd, -next_even], [even, even], [float("nan"), even], [3e38, 3.3e38]]
    )
    value = pairs.bfloat16().flatten()[None, None, :, None].expand(1, 1, 12, 16)
    query = torch.zeros(1, 1, 6, 16, dtype=torch.bfloat16)
    found = partial_global_module.partial_global_attention(query, value.nan_to_num() * 0, value, 6, impl="c")
    expected = (value.float().unflatten(2, (6, 2)).double().mean(3)).bfloat16()
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
