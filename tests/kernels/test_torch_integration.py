"""Joining torch: autograd, opcheck, compilation, autocast, checkpointing, functional transforms, fake tensors."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from pargo_kernels import partial_global_attention as module
from pargo_kernels.cascaded_partial_attention import cascaded_partial_attention
from pargo_kernels.partial_global_attention import partial_global_attention

SHAPES = {"equal slices": (4, 2, 8, None), "unequal slices": (3, 2, 8, None), "packed": (3, 1, 9, (0, 4, 9))}


def pgp(query, key, value, impl="auto", layout="equal slices", **options):
    num_partial, _, _, offsets = SHAPES[layout]
    if offsets is not None:
        options["cu_seqlens_k"] = torch.tensor(offsets, dtype=torch.int32, device=query.device)
    return partial_global_attention(query, key, value, num_partial, impl=impl, **options)


def cpp(query, key, value, impl="auto", **options):
    return cascaded_partial_attention(query, key, value, 3, num_partial=query.shape[2] - 1, impl=impl, **options)


def pgp_inputs(layout="equal slices", dtype=torch.float32, device="cpu", dim=4):
    num_partial, num_global, num_keys, offsets = SHAPES[layout]
    torch.manual_seed(0)
    query = torch.randn(2, 4, num_partial + num_global, dim, dtype=dtype, device=device)
    key, value = torch.randn(2, 2 if offsets is None else 1, 2, num_keys, dim, dtype=dtype, device=device)
    return [t.requires_grad_() for t in (query, key, value)]


def cpp_inputs(dtype=torch.float32, device="cpu", dim=4):
    torch.manual_seed(0)
    query = torch.randn(2, 4, 6, dim, dtype=dtype, device=device)
    key, value = torch.randn(2, 2, 2, 6, dim, dtype=dtype, device=device)
    return [t.requires_grad_() for t in (query, key, value)]


OPS = {"partial_global": (pgp, pgp_inputs), "cascaded": (cpp, cpp_inputs)}


@pytest.fixture(params=OPS)
def op(request):
    return OPS[request.param]


@pytest.mark.parametrize("layout", SHAPES)
def test_gradcheck_partial_global(layout):
    inputs = pgp_inputs(layout, torch.double)
    assert torch.autograd.gradcheck(lambda *t: pgp(*t, layout=layout, return_lse=True), inputs)


@pytest.mark.parametrize("edge", ("clamp", "truncate"))
def test_gradcheck_cascaded(edge):
    assert torch.autograd.gradcheck(lambda *t: cpp(*t, edge=edge, return_lse=True), cpp_inputs(torch.double))


def test_only_wanted_gradients_are_given(op, backend):
    call, inputs = op
    query, key, value = inputs(device=backend.device)
    key.requires_grad_(False)
    call(query, key, value, impl=backend.impl).sum().backward()
    assert query.grad is not None
    assert key.grad is None
    assert value.grad is not None


def test_gradient_through_lse_alone(op, backend):
    call, inputs = op
    grads = []
    for impl in (backend.impl, "reference"):
        tensors = inputs(device=backend.device)
        call(*tensors, impl=impl, return_lse=True)[1].sum().backward()
        grads.append([t.grad if t.grad is not None else torch.zeros_like(t) for t in tensors])
    for ours, exact in zip(*grads, strict=True):
        torch.testing.assert_close(ours, exact)


def test_functional_gradient(op, backend):
    call, inputs = op
    tensors = inputs(device=backend.device)
    call(*tensors, impl=backend.impl).square().sum().backward()
    functional = torch.func.grad(lambda *t: call(*t, impl=backend.impl).square().sum(), argnums=(0, 1, 2))
    for ours, expected in zip(functional(*(t.detach() for t in tensors)), tensors, strict=True):
        torch.testing.assert_close(ours, expected.grad)


def test_a_compiled_functional_gradient(op, backend):
    """The op's kernels for autograd met a transform inside torch.compile with an error of torch's own."""
    call, inputs = op
    tensors = [t.detach() for t in inputs(device=backend.device)]
    functional = torch.func.grad(lambda *t: call(*t, impl=backend.impl).square().sum())
    compiled = torch.compile(functional, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*tensors), functional(*tensors))


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (1, None, 0), (None, 2, 2)], ids=str)
@pytest.mark.parametrize("layout", ["equal slices", "packed"])
def test_vmap_is_a_loop(backend, layout, in_dims):
    torch.manual_seed(0)
    single = [t.detach() for t in pgp_inputs(layout, device=backend.device)]
    mapped = [
        t if d is None else torch.randn(3, *t.shape, device=backend.device).movedim(0, d)
        for t, d in zip(single, in_dims, strict=True)
    ]

    def loss(*tensors):
        return pgp(*tensors, layout=layout, impl=backend.impl).square().sum()

    for function in (loss, torch.func.grad(loss, argnums=(0, 1, 2))):
        together = torch.vmap(function, in_dims)(*mapped)
        alone = [
            function(*(t if d is None else t.select(d, i) for t, d in zip(mapped, in_dims, strict=True))) for i in range(3)
        ]
        torch.testing.assert_close(
            together, torch.stack(alone) if function is loss else tuple(map(torch.stack, zip(*alone, strict=True)))
        )


def test_vmap_over_the_packing_is_refused():
    query, key, value = (t.detach() for t in pgp_inputs("packed"))
    offsets = torch.tensor([[0, 4, 9], [0, 5, 9]], dtype=torch.int32)
    with pytest.raises(ValueError, match="cu_seqlens_k holds no values that can be read here: it is fake, or mapped by vmap"):
        torch.vmap(lambda o: partial_global_attention(query, key, value, 3, cu_seqlens_k=o))(offsets)


def test_opcheck(backend):
    from pargo_kernels import cascaded_partial_attention as cascaded_module

    query, key, value = (t.detach() for t in pgp_inputs(device=backend.device))
    settings = (4, 0.5, backend.impl)
    torch.library.opcheck(module._ops.forward, (query, key, value, None, *settings))
    out, lse = module._ops.forward(query, key, value, None, *settings)
    torch.library.opcheck(module._ops.backward, (out, None, query, key, value, None, out, lse, *settings))
    query, key, value = (t.detach() for t in cpp_inputs(device=backend.device))
    settings = (3, 5, "clamp", 0.5, backend.impl)
    torch.library.opcheck(cascaded_module._ops.forward, (query, key, value, *settings))
    out, lse = cascaded_module._ops.forward(query, key, value, *settings)
    torch.library.opcheck(cascaded_module._ops.backward, (out, lse, query, key, value, out, lse, *settings))


def test_compiled_without_graph_breaks(op, backend):
    call, inputs = op

    def step(query, key, value):
        out, lse = call(query * 1.0, key, value, impl=backend.impl, return_lse=True)
        return out.square().sum() + lse.sum()

    # no C++ compiler needed: the graph is captured, traced ahead of time, and run
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for function, grads in ((step, []), (compiled, [])):
        tensors = inputs(device=backend.device)
        function(*tensors).backward()
        grads.append([t.grad for t in tensors])
        if function is step:
            expected = grads[0]
    for ours, eager in zip(grads[0], expected, strict=True):
        torch.testing.assert_close(ours, eager)


def test_packed_images_compile_and_are_still_checked():
    query, key, value = (t.detach() for t in pgp_inputs("packed"))

    def call(offsets):
        return partial_global_attention(query, key, value, 3, cu_seqlens_k=offsets, impl="torch")

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    offsets = torch.tensor([0, 4, 9], dtype=torch.int32)
    assert torch.equal(compiled(offsets), call(offsets))
    with pytest.raises(ValueError, match="cu_seqlens_k gives image 0 n_v=2 visual tokens for num_partial=3"):
        compiled(torch.tensor([0, 2, 9], dtype=torch.int32))


def test_compiling_does_not_change_the_layout_of_a_view(backend):
    # [B, N, H, D] seen as [B, H, N, D]: the output must come in the same layout
    query, key, value = (t.detach().transpose(1, 2).contiguous().transpose(1, 2) for t in pgp_inputs(device=backend.device))
    assert pgp(query, key, value, impl=backend.impl).stride() == query.stride()
    compiled = torch.compile(lambda *t: pgp(*t, impl=backend.impl), backend="aot_eager", fullgraph=True)
    assert compiled(query, key, value).stride() == query.stride()


def test_autocast_casts_as_for_any_attention(op, backend):
    call, inputs = op
    query, key, value = inputs(device=backend.device)
    with torch.autocast(backend.device, dtype=torch.bfloat16):
        out = call(query, key.detach().half().requires_grad_(), value, impl=backend.impl)
    assert out.dtype == torch.bfloat16
    exact = call(*(t.detach().bfloat16() for t in (query, key.half(), value)), impl=backend.impl)
    torch.testing.assert_close(out.detach(), exact, rtol=0, atol=0)
    with torch.autocast(backend.device, dtype=torch.bfloat16):
        # a backward inside autocast computes as it does outside
        out.float().square().sum().backward()
    assert query.grad.dtype == torch.float32


def test_checkpointing_gives_the_same_gradients(op, backend):
    call, inputs = op
    grads = []
    for wrap in (lambda f, *t: f(*t), lambda f, *t: checkpoint(f, *t, use_reentrant=False)):
        tensors = inputs(device=backend.device)
        wrap(lambda *t: call(*t, impl=backend.impl), *tensors).square().sum().backward()
        grads.append([t.grad for t in tensors])
    for plain, checkpointed in zip(*grads, strict=True):
        assert torch.equal(plain, checkpointed)


def test_inference_mode(op, backend):
    call, inputs = op
    tensors = inputs(device=backend.device)
    with torch.inference_mode():
        assert torch.equal(call(*tensors, impl=backend.impl), call(*(t.detach() for t in tensors), impl=backend.impl))


def test_meta_tensors_give_shapes_without_computing(op):
    call, inputs = op
    tensors = [t.detach().to("meta").requires_grad_() for t in inputs()]
    out, lse = call(*tensors, return_lse=True)
    assert (out.shape, out.device.type, lse.shape) == (tensors[0].shape, "meta", tensors[0].shape[:3])
    out.sum().backward()
    assert [t.grad.shape for t in tensors] == [t.shape for t in tensors]


@pytest.mark.parametrize("shape", ((0, 4, 6), (2, 0, 6), (2, 4, 0)), ids=("no batch", "no heads", "no rows"))
def test_empty_calls_give_empty_results_and_zero_gradients(backend, shape):
    batch, heads, rows = shape
    query = torch.randn(batch, heads, rows, 8, device=backend.device, requires_grad=True)
    key, value = (torch.randn(batch, max(heads, 1), 9, 8, device=backend.device, requires_grad=True) for _ in range(2))
    out = partial_global_attention(query, key, value, min(4, rows), impl=backend.impl)
    assert out.shape == query.shape
    out.sum().backward()
    assert (key.grad == 0).all()


def test_a_stride_0_gradient_is_read_as_what_it_is(op, backend):
    call, inputs = op
    grads = []
    for spread in (lambda t: t.sum(), lambda t: (t * torch.ones_like(t)).sum()):
        tensors = inputs(device=backend.device)
        spread(call(*tensors, impl=backend.impl)).backward()
        grads.append([t.grad for t in tensors])
    for stride_0, dense in zip(*grads, strict=True):
        assert torch.equal(stride_0, dense)


def test_two_runs_are_bitwise_equal(op, backend):
    call, inputs = op
    runs = []
    for _ in range(2):
        tensors = inputs(device=backend.device, dim=32)
        out = call(*tensors, impl=backend.impl)
        runs.append([out, *torch.autograd.grad(out.square().sum(), tensors)])
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def test_the_package_name_is_a_module():
    import pargo_kernels
    import pargo_kernels.ops
    import pargo_kernels.partial_global_attention

    assert pargo_kernels.partial_global_attention.partial_global_attention is partial_global_attention
    assert pargo_kernels.ops.partial_global_attention is partial_global_attention
