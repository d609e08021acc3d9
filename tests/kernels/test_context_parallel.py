"""Visual tokens sharded over real processes against one process."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pargo_kernels import context_parallel
from pargo_kernels.partial_global_attention import partial_global_attention

# (partial rows, keys) of each rank
EVEN = {2: ((6, 12), (6, 12)), 3: ((2, 6), (4, 12), (3, 9))}
NUM_GLOBAL = 5


def whole(shards):
    torch.manual_seed(0)
    rows, keys = (sum(shard[i] for shard in shards) for i in (0, 1))
    query = torch.randn(2, 4, rows + NUM_GLOBAL, 16)
    key, value = torch.randn(2, 2, 2, keys, 16)
    grad_out, grad_lse = torch.randn(query.shape), torch.randn(query.shape[:3])
    return rows, query, key, value, grad_out, grad_lse


def part(t, shards, rank, of_rows, rows):
    """This rank's rows (and all global ones), or this rank's keys."""
    index = 0 if of_rows else 1
    begin = sum(shard[index] for shard in shards[:rank])
    own = t[:, :, begin : begin + shards[rank][index]]
    return torch.cat((own, t[:, :, rows:]), 2) if of_rows else own.contiguous()


def worker(rank, shards, port, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(shards))
    try:
        rows, query, key, value, grad_out, grad_lse = whole(shards)
        inputs = [part(query, shards, rank, True, rows), *(part(t, shards, rank, False, rows) for t in (key, value))]
        inputs = [t.requires_grad_() for t in inputs]
        try:
            out, lse = context_parallel.partial_global_attention(*inputs, shards[rank][0], dist.group.WORLD, return_lse=True)
        except ValueError as error:
            results[rank] = str(error)
            return
        seeds = [part(t, shards, rank, True, rows) for t in (grad_out, grad_lse)]
        grads = torch.autograd.grad((out, lse), inputs, seeds, retain_graph=True)
        results[rank] = [t.detach().numpy() for t in (out, lse, *grads)]
        (first,) = torch.autograd.grad(out.sum(), inputs[0], create_graph=True)
        with pytest.raises(RuntimeError, match="over several ranks has first derivatives in reverse mode only"):
            first.sum().backward()
    finally:
        dist.destroy_process_group()


def run(shards):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(worker, (shards, port, results), nprocs=len(shards))
        return [results[rank] for rank in range(len(shards))]


@pytest.mark.parametrize("ranks", EVEN)
def test_sharded_equals_whole(ranks):
    shards = EVEN[ranks]
    rows, query, key, value, grad_out, grad_lse = whole(shards)
    inputs = [t.requires_grad_() for t in (query, key, value)]
    out, lse = partial_global_attention(*inputs, rows, return_lse=True, impl="reference")
    grads = torch.autograd.grad((out, lse), inputs, (grad_out, grad_lse))
    results = run(shards)
    for rank, result in enumerate(results):
        for index, (ours, exact) in enumerate(zip(result, (out, lse, *grads), strict=True)):
            expected = part(exact.detach(), shards, rank, index < 3, rows)
            torch.testing.assert_close(torch.from_numpy(ours), expected, rtol=1e-5, atol=1e-5)
        # the global rows are bitwise the same on every rank, their query gradients too
        for index in (0, 1, 2):
            first, own = (torch.from_numpy(r[index])[:, :, -NUM_GLOBAL:] for r in (results[0], result))
            assert torch.equal(first, own)


def test_a_shard_that_ends_inside_a_slice_is_refused_on_every_rank():
    messages = run(((6, 11), (6, 13)))
    assert len(set(messages)) == 1
    assert (
        "key on rank 0 holds tokens 0...11 for partial rows 0...6; a shard must end where a slice ends, here at 12"
        in messages[0]
    )
