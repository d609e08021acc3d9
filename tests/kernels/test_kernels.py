"""What only the Triton kernels promise: results that do not depend on the batch, and reads that stay inside."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from pargo_kernels import partial_global_attention as module
from pargo_kernels.dispatch import interpreting
from tests.kernels.made.corners import NAMES, partial_global, results
from tests.kernels.made.layouts import Problem
from tests.kernels.test_accuracy import check_accuracy

DTYPES = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("batch", "heads", "num_partial", "num_keys"), ((64, 1, 6, 14), (2, 2, 20, 1100)), ids=("one chunk", "several chunks")
)
def test_a_batch_row_is_bitwise_what_it_is_alone(kernels, dtype, batch, heads, num_partial, num_keys):
    problem = partial_global(num_partial, 5, num_keys, dim=16, heads=heads, batch=batch)._replace(dtype=dtype)
    tensors = problem.tensors(kernels.device)
    together = results(problem, tensors, impl="triton")
    for index in {batch // 2, batch - 1}:
        mine = slice(index, index + 1)
        alone = results(problem._replace(batch=1), [t[mine] for t in tensors], impl="triton")
        for name, row, single in zip(NAMES, together, alone, strict=True):
            assert torch.equal(row[mine], single), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", ((20, 60, 33), (1100, 21, 700)), ids=("short slices", "short and long slices"))
def test_a_packed_image_is_bitwise_what_it_is_alone(kernels, dtype, lengths):
    offsets = torch.tensor([0, *lengths]).cumsum(0).int()
    problem = partial_global(20, 5, sum(lengths), dim=16, heads=2, batch=len(lengths), cu_seqlens_k=offsets)
    problem = problem._replace(dtype=dtype)
    query, key, value, grad_out, grad_lse = problem.tensors(kernels.device)
    packed = results(problem, (query, key, value, grad_out, grad_lse), impl="triton")
    for image, length in enumerate(lengths):
        row, keys = slice(image, image + 1), slice(int(offsets[image]), int(offsets[image + 1]))
        single = problem._replace(batch=1, num_keys=length, arguments={"num_partial": 20, "scale": None})
        tensors = (query[row], key[:, :, keys], value[:, :, keys], grad_out[row], grad_lse[row])
        alone = results(single, tensors, impl="triton")
        own = (packed[0][row], packed[1][row], packed[2][row], packed[3][:, :, keys], packed[4][:, :, keys])
        for name, part, expected in zip(NAMES, own, alone, strict=True):
            assert torch.equal(part, expected), (image, name)


@pytest.mark.parametrize("strides", ("tokens first", "padded rows", "offset one", "strided columns"))
@pytest.mark.parametrize("op", ("partial_global", "cascaded"))
def test_strides_change_no_bit_where_rows_are_moved_alike(kernels, op, strides):
    arguments = {"num_partial": 20, "scale": None} | ({} if op == "partial_global" else {"window": 7, "edge": "clamp"})
    problem = Problem(op, 2, 4, 2, 25, 60 if op == "partial_global" else 25, 20, arguments)
    plain = results(problem, problem.tensors(kernels.device), impl="triton")
    placed = problem._replace(strides=(strides,) * 4)
    pairs = list(zip(NAMES, plain, results(placed, placed.tensors(kernels.device), impl="triton"), strict=True))
    if not interpreting() and strides != "tokens first":
        # moved element by element, by other lines of the launch table: the compiler adds gradients up in another order
        check_accuracy(placed, kernels)
        pairs = pairs[:2]
    for name, expected, other in pairs:
        assert torch.equal(expected, other), name


OFFSETS = {
    "an image with fewer keys than rows": (0, 3, 30, 60),
    "an image without keys": (0, 30, 30, 60),
    "no keys at all for most": (0, 0, 0, 60),
    "offsets outside the keys": (-5, 20, 4000, 60),
    "falling offsets": (50, 20, 40, 10),
}


@pytest.mark.parametrize("num_partial", (8, 0), ids=("partial rows", "global rows only"))
@pytest.mark.parametrize("name", OFFSETS)
def test_unchecked_offsets_never_lead_outside(kernels, name, num_partial):
    problem = partial_global(num_partial, 2, 60, batch=3)._replace(strides=("offset one",) * 4)
    tensors = problem._replace(arguments={"cu_seqlens_k": 0}).tensors(kernels.device)
    query, key, value, grad_out, grad_lse = tensors
    offsets = torch.tensor(OFFSETS[name], dtype=torch.int32, device=kernels.device)
    out, lse = module._ops.forward(query, key, value, offsets, num_partial, 0.2, "triton")
    grads = module._ops.backward(grad_out, grad_lse, query, key, value, offsets, out, lse, num_partial, 0.2, "triton")
    assert out.isfinite().all()
    assert grads[0].isfinite().all()
    assert not lse.isnan().any()
    # a row that sees nothing: 0 and minus infinity, and no gradient
    begin = [min(max(x, 0), 60) for x in OFFSETS[name][:-1]]
    length = [min(max(end, b), 60) - b for b, end in zip(begin, OFFSETS[name][1:], strict=True)]
    for image, n in enumerate(length):
        blind = [i for i in range(num_partial) if i * n // num_partial == (i + 1) * n // num_partial]
        blind += list(range(num_partial, num_partial + 2)) if n == 0 else []
        assert torch.isneginf(lse[image, :, blind]).all()
        assert (out[image, :, blind] == 0).all()
        assert (grads[0][image, :, blind] == 0).all()
        assert lse[image].isfinite().sum() == (problem.num_query - len(blind)) * problem.heads


def test_offsets_past_2_to_the_31(kernels):
    """Strides over 2^31 elements in a lazily mapped tensor, of which only the touched pages exist."""
    script = f"""
        import torch
        from pargo_kernels.ops import cascaded_partial_attention, partial_global_attention
        device = {kernels.device!r}
        far = 2**31 + 64
        for strides in ((far, 640, 32, 1), (640, far, 32, 1), (16 * 8, 16, far // 8, 1)):
            shape = (2, 2, 8, 16)
            size = 1 + sum((n - 1) * s for n, s in zip(shape, strides))
            tensors = [torch.empty(size, dtype=torch.float16, device=device).as_strided(shape, strides) for _ in range(4)]
            for t in tensors:
                t.copy_(torch.randn(shape))
            for op, setting in ((partial_global_attention, 5), (cascaded_partial_attention, 3)):
                runs = []
                for impl in ("triton", "reference"):
                    inputs = [t.detach().requires_grad_() for t in tensors[:3]]
                    out = op(*inputs, setting, impl=impl)
                    runs.append([out, *torch.autograd.grad(out, inputs, tensors[3])])
                for ours, exact in zip(*runs):
                    torch.testing.assert_close(ours, exact, rtol=1e-2, atol=1e-2)
            del tensors, inputs, runs, out, ours, exact
        print("fine")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.strip() == "fine", done.stderr


@pytest.mark.skipif(not interpreting(), reason="the repaired interpreter is not in use in this process")
def test_the_repaired_interpreter_rounds_bf16_as_torch_does(kernels):
    from tests.kernels.bf16_interpreter import to_bf16, to_fp32

    torch.manual_seed(0)
    patterns = torch.randint(-(2**31), 2**31, (100_000,), dtype=torch.int64).int()
    ties = (torch.arange(-(2**15), 2**15, dtype=torch.int64) * 2**16 + 2**15).int()
    values = torch.cat((patterns, ties)).view(torch.float32)
    values = torch.cat((values[~values.isnan()], torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1e-40])))
    expected = values.bfloat16()
    ours = torch.from_numpy(to_bf16(values.numpy())).view(torch.bfloat16)
    assert torch.equal(ours.view(torch.int16), expected.view(torch.int16))
    assert torch.equal(torch.from_numpy(to_fp32(expected.view(torch.uint16).numpy())), expected.float())
