"""The torch path on several threads of a CPU: the same bits, the caller's modes, and nothing left behind."""

import threading

import pytest
import torch

from pargo_kernels.torch_path import head_blocks
from pargo_kernels.torch_path.head_blocks import for_each_block
from tests.kernels.made.corners import NAMES, cascaded, partial_global, results

PROBLEMS = {
    "partial-global": partial_global(20, 5, 110, dim=16, heads=6, kv_heads=3, batch=2),
    "cascaded": cascaded(300, 10, 20, dim=16, heads=6, kv_heads=3),
}


@pytest.fixture
def three_threads(monkeypatch):
    # a head a block, so that there is something to share
    monkeypatch.setattr(head_blocks, "BLOCK_BYTES", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", PROBLEMS)
def test_threads_do_not_change_a_bit(three_threads, name):
    tensors = PROBLEMS[name].tensors("cpu")
    together = results(PROBLEMS[name], tensors, impl="torch")
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)
    for result, x, y in zip(NAMES, together, results(PROBLEMS[name], tensors, impl="torch"), strict=True):
        assert torch.equal(x, y), result


@pytest.mark.parametrize("mode", (torch.inference_mode, torch.no_grad, torch.enable_grad))
@pytest.mark.parametrize("name", PROBLEMS)
def test_threads_work_in_the_callers_mode(three_threads, name, mode):
    query, key, value, *_ = PROBLEMS[name].tensors("cpu")
    leaves = [t.detach().requires_grad_() for t in (query, key, value)]
    with mode():
        out = PROBLEMS[name](*leaves, impl="torch")
    assert out.is_inference() == (mode is torch.inference_mode)
    assert out.requires_grad == (mode is torch.enable_grad)
    torch.testing.assert_close(out.detach().clone(), PROBLEMS[name](query, key, value, impl="reference"))


def test_every_block_is_done_once_and_by_more_than_one_thread(three_threads):
    query, key = torch.empty(2, 6, 7, 4), torch.empty(2, 3, 9, 4)
    done, workers, meet = [], set(), threading.Barrier(3, timeout=30)

    def work(block):
        if threading.get_ident() not in workers:
            workers.add(threading.get_ident())
            meet.wait()
        assert torch.get_num_threads() == 1
        assert not torch.is_grad_enabled()
        done.append(block)

    for_each_block(query, key, work)
    assert len(workers) == 3
    assert sorted(done, key=str) == sorted(head_blocks.head_blocks(query, key), key=str)


def test_an_error_in_a_thread_reaches_the_caller(three_threads):
    caller = threading.get_ident()

    def work(block):
        if threading.get_ident() != caller:
            raise RuntimeError("broken block")
        meet.wait()

    meet = threading.Event()
    threading.Timer(0.5, meet.set).start()
    with pytest.raises(RuntimeError, match="broken block"):
        for_each_block(torch.empty(2, 6, 7, 4), torch.empty(2, 3, 9, 4), work)
    assert torch.get_num_threads() == 3
