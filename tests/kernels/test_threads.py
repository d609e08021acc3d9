"""Threads of a CPU: what is computed does not depend on them, they work in the caller's mode, and leave nothing behind."""

import threading

import pytest
import torch

from pargo_kernels.torch_path import head_blocks
from tests.kernels.made.corners import NAMES, cascaded, partial_global, results

# work for several threads, in blocks and inside them
PROBLEMS = {
    "partial-global": partial_global(20, 5, 1500, dim=32, heads=6, kv_heads=3, batch=2),
    "packed": partial_global(
        20, 5, 1500, dim=32, heads=4, kv_heads=2, batch=2, cu_seqlens_k=torch.tensor([0, 1100, 1500], dtype=torch.int32)
    ),
    "cascaded": cascaded(400, 10, 60, dim=32, heads=6, kv_heads=3),
}


@pytest.fixture
def threads(backend):
    """Sets the number of threads; what it was comes back."""
    if backend.device != "cpu" or backend.impl == "triton":
        pytest.skip("threads are a CPU's, and the interpreter has one")
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", PROBLEMS)
def test_threads_do_not_change_what_is_computed(threads, backend, name):
    """Not a bit of it, by the C kernels; the torch path's sums are those of torch's operations."""
    tensors = PROBLEMS[name].tensors("cpu")
    threads(1)
    alone = results(PROBLEMS[name], tensors, impl=backend.impl)
    for number in (2, 3):
        threads(number)
        together = results(PROBLEMS[name], tensors, impl=backend.impl)
        again = results(PROBLEMS[name], tensors, impl=backend.impl)
        for result, x, y, z in zip(NAMES, alone, together, again, strict=True):
            assert torch.equal(y, z), result
            if backend.impl == "c":
                assert torch.equal(x, y), result
            torch.testing.assert_close(x, y)


@pytest.mark.parametrize("mode", (torch.inference_mode, torch.no_grad, torch.enable_grad))
@pytest.mark.parametrize("name", PROBLEMS)
def test_threads_work_in_the_callers_mode(threads, backend, name, mode):
    threads(2)
    query, key, value, *_ = PROBLEMS[name].tensors("cpu")
    leaves = [t.detach().requires_grad_() for t in (query, key, value)]
    with mode():
        out = PROBLEMS[name](*leaves, impl=backend.impl)
    assert out.is_inference() == (mode is torch.inference_mode)
    assert out.requires_grad == (mode is torch.enable_grad)
    torch.testing.assert_close(out.detach().clone(), PROBLEMS[name](query, key, value, impl="reference"))


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_setting_of_the_process_or_of_a_thread_is_touched(threads, backend, monkeypatch, name):
    """A thread that starts while an op runs finds what every thread finds."""
    threads(3)
    # a head a block
    monkeypatch.setattr(head_blocks, "BLOCK_BYTES", 1)
    tensors = PROBLEMS[name].tensors("cpu")
    done, found, began = threading.Event(), set(), 0

    def compute():
        for _ in range(3):
            results(PROBLEMS[name], tensors, impl=backend.impl)
        done.set()

    worker = threading.Thread(target=compute)
    worker.start()
    while not done.is_set() or began < 5:
        other = threading.Thread(target=lambda: found.add((torch.get_num_threads(), torch.is_grad_enabled())))
        other.start()
        other.join()
        began += 1
    worker.join()
    assert found == {(3, True)}
    assert torch.get_num_threads() == 3


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# a head of key takes 144 bytes; of five batch rows of three heads
@pytest.mark.parametrize(
    ("block_bytes", "rows", "heads"),
    ((1, 1, [1, 1, 1]), (144, 1, [1, 1, 1]), (2 * 144, 1, [2, 1]), (3 * 144, 1, [3]), (7 * 144, 2, [3]), (2 << 20, 5, [3])),
)
def test_every_block_is_done_once_and_in_order(one_thread, monkeypatch, block_bytes, rows, heads):
    monkeypatch.setattr(head_blocks, "BLOCK_BYTES", block_bytes)
    query, key, done = torch.empty(5, 6, 7, 4), torch.empty(5, 3, 9, 4), []
    head_blocks.for_each_block(query, key, done.append)
    cells = torch.arange(15).view(5, 3)
    assert torch.cat([cells[block.batch, block.kv_heads].flatten() for block in done]).sort().values.tolist() == list(range(15))
    firsts = [int(cells[block.batch, block.kv_heads].min()) for block in done]
    assert firsts == sorted(firsts)
    sizes = [tuple(cells[block.batch, block.kv_heads].shape) for block in done]
    batches = [rows] * (5 // rows) + [5 % rows] * (5 % rows > 0)
    assert sizes == [(batch, number) for batch in batches for number in heads]
    assert {block.group for block in done} == {2}


@pytest.mark.parametrize("name", PROBLEMS)
def test_blocks_of_the_torch_path_cut_nothing(one_thread, monkeypatch, name):
    problem = PROBLEMS[name]
    tensors = problem.tensors("cpu")
    whole = results(problem, tensors, impl="torch")
    monkeypatch.setattr(head_blocks, "BLOCK_BYTES", 1)
    for result, x, y in zip(NAMES, results(problem, tensors, impl="torch"), whole, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4, msg=lambda text, result=result: f"{result}: {text}")


BLOCKS = {
    "contiguous": (torch.empty(2, 3, 4, 5), True),
    "with groups": (torch.empty(2, 3, 2, 4, 5), True),
    "one row of the batch, tokens first": (torch.empty(1, 4, 3, 5).transpose(1, 2), True),
    "one head, tokens first": (torch.empty(2, 4, 1, 5).transpose(1, 2), True),
    "tokens first": (torch.empty(2, 4, 3, 5).transpose(1, 2), False),
    "tokens first, one column": (torch.empty(2, 4, 3, 1).transpose(1, 2), False),
    "some heads": (torch.empty(2, 3, 4, 5)[:, :2], False),
    "another dtype": (torch.empty(2, 3, 4, 5, dtype=torch.bfloat16), False),
    "fp64": (torch.empty(2, 3, 4, 5, dtype=torch.double), True),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_computed_where_it_lies_if_it_can_be(name):
    block, in_place = BLOCKS[name]
    staged = head_blocks.staging(block)
    assert staged.shape == (block.shape[0] * block.shape[1], *block.shape[2:])
    assert staged.dtype == (torch.double if name == "fp64" else torch.float)
    assert (staged.data_ptr() == block.data_ptr()) == in_place
    staged.copy_(torch.arange(staged.numel()).view(staged.shape))
    head_blocks.store(block, staged)
    assert block.flatten().tolist() == list(range(block.numel()))
