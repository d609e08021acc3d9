"""The ops inside larger programs of torch: exported, compiled for all sizes, captured, sharded, selectively recomputed."""

import socket
from functools import partial
from itertools import product

import pytest
import torch
import torch._dynamo.testing
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from pargo_kernels import registration
from pargo_kernels.cascaded_partial_attention import cascaded_partial_attention
from pargo_kernels.partial_global_attention import partial_global_attention


class Layer(torch.nn.Module):
    """Both attentions between linear maps."""

    def __init__(self, num_partial, window, width=16, impl="auto"):
        super().__init__()
        self.num_partial, self.window, self.impl = num_partial, window, impl
        self.into, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)

    def forward(self, tokens, features):
        query, key, value = (self.heads(t) for t in self.into(tokens).chunk(3, -1))
        tokens = cascaded_partial_attention(query, key, value, self.window, num_partial=self.num_partial, impl=self.impl)
        _, key, value = (self.heads(t) for t in self.into(features).chunk(3, -1))
        tokens = partial_global_attention(tokens, key, value, self.num_partial, impl=self.impl)
        return self.out(tokens.transpose(1, 2).flatten(2))

    def heads(self, x):
        return x.unflatten(-1, (2, -1)).transpose(1, 2)


def layer_and_inputs(device="cpu", impl="auto", batch=2, num_keys=24):
    torch.manual_seed(0)
    layer = Layer(num_partial=6, window=3, impl=impl).to(device)
    return layer, torch.randn(batch, 8, 16, device=device), torch.randn(batch, num_keys, 16, device=device)


def test_exported_with_sizes_left_open(tmp_path):
    layer, tokens, features = layer_and_inputs()
    batch, keys = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("keys", min=12, max=4096)
    program = torch.export.export(layer, (tokens, features), dynamic_shapes=({0: batch}, {0: batch, 1: keys}))
    torch.export.save(program, tmp_path / "layer.pt2")
    loaded = torch.export.load(tmp_path / "layer.pt2").module()
    _, tokens, features = layer_and_inputs(batch=5, num_keys=31)
    torch.testing.assert_close(loaded(tokens, features), layer(tokens, features))
    # and it can be trained on
    ours = torch.autograd.grad(loaded(tokens, features).sum(), list(loaded.parameters()))
    for grad, eager in zip(ours, torch.autograd.grad(layer(tokens, features).sum(), list(layer.parameters())), strict=True):
        torch.testing.assert_close(grad, eager)


def compiled_once(function, calls):
    """The compiled function agrees with the eager one on every call and was compiled once.

    No two sizes of the first call may be equal: torch.compile takes them for one and the same.
    """
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=True)
    for arguments in calls:
        torch.testing.assert_close(compiled(*arguments), function(*arguments))
    assert counter.frame_count == 1


def test_new_sizes_do_not_compile_again(backend):
    def call(query, key, value, num_partial):
        return partial_global_attention(query, key, value, num_partial, impl=backend.impl)

    def inputs(batch, num_partial, num_keys):
        query = torch.randn(batch, 5, num_partial + 3, 8, device=backend.device)
        key, value = (torch.randn(batch, 5, num_keys, 8, device=backend.device) for _ in range(2))
        return query, key, value, num_partial

    compiled_once(call, [inputs(2, 6, 12), inputs(3, 6, 12), inputs(3, 6, 31), inputs(3, 7, 31), inputs(4, 10, 40)])


def test_new_windows_do_not_compile_again(backend):
    def call(query, key, value, window):
        return cascaded_partial_attention(query, key, value, window, impl=backend.impl)

    calls = [(*torch.randn(3, 2, 5, tokens, 8, device=backend.device), window) for tokens, window in ((9, 3), (12, 4), (20, 7))]
    compiled_once(call, calls)


def test_new_packings_do_not_compile_again(backend):
    def call(query, key, value, offsets):
        return partial_global_attention(query, key, value, 4, cu_seqlens_k=offsets, impl=backend.impl)

    def inputs(*ends):
        query = torch.randn(len(ends), 5, 6, 8, device=backend.device)
        offsets = torch.tensor([0, *ends], dtype=torch.int32, device=backend.device)
        key, value = (torch.randn(1, 5, ends[-1], 8, device=backend.device) for _ in range(2))
        return query, key, value, offsets

    compiled_once(call, [inputs(5, 12), inputs(7, 12), inputs(9, 20), inputs(4, 11, 30)])


def gradients(layer, tokens, features, around):
    layer.zero_grad()
    around(layer, tokens, features).square().sum().backward()
    return [p.grad.clone() for p in layer.parameters()]


def test_a_policy_that_saves_attention_does_not_compute_it_again(backend, monkeypatch):
    layer, tokens, features = layer_and_inputs(backend.device, backend.impl)
    expected = gradients(layer, tokens, features, lambda f, *a: f(*a))
    forwards = (
        torch.ops.pargo_kernels.partial_global_attention_forward.default,
        torch.ops.pargo_kernels.cascaded_partial_attention_forward.default,
    )

    def policy(context, op, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE if op in forwards else CheckpointPolicy.PREFER_RECOMPUTE

    def around(f, *a):
        contexts = partial(create_selective_checkpoint_contexts, policy)
        return checkpoint(f, *a, use_reentrant=False, context_fn=contexts)

    computed = []
    run = registration._run
    monkeypatch.setattr(registration, "_run", lambda module, *rest: (computed.append((module, rest[0])), run(module, *rest))[1])
    for ours, eager in zip(gradients(layer, tokens, features, around), expected, strict=True):
        torch.testing.assert_close(ours, eager)
    assert sorted(computed) == sorted(product(("partial_global", "cascaded"), ("forward", "backward")))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: no graph was captured")
def test_a_captured_step_follows_its_inputs(kernels):
    layer, tokens, features = layer_and_inputs("cuda", kernels.impl)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side), torch.no_grad():
        layer(tokens, features)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        out = layer(tokens, features)
    features.normal_()
    graph.replay()
    with torch.no_grad():
        torch.testing.assert_close(out, layer(tokens, features), rtol=0, atol=0)


def shard_and_step(rank, port, results):
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        mesh = dist.init_device_mesh("cpu", (2,))
        layer, tokens, features = layer_and_inputs()
        fully_shard(layer, mesh=mesh)
        mine = slice(rank, rank + 1)
        layer(tokens[mine], features[mine]).square().sum().backward()
        results[rank] = [p.grad.full_tensor().numpy() for p in layer.parameters()]
    finally:
        dist.destroy_process_group()


def test_fsdp2_gives_the_gradients_of_one_process():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    layer, tokens, features = layer_and_inputs()
    expected = gradients(layer, tokens, features, lambda f, *a: f(*a))
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(shard_and_step, (port, results), nprocs=2)
        for rank in (0, 1):
            for ours, alone in zip(results[rank], expected, strict=True):
                # FSDP averages over ranks what one process sums
                torch.testing.assert_close(2 * torch.from_numpy(ours), alone)
