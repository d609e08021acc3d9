"""Derivatives that the ops do not have are refused, however they are asked for.

Each way of asking is first tried with ``impl="reference"``, plain differentiable torch, which must give a value other than zero:
so the way does ask for what the ops have not.
"""

import pytest
import torch
from torch import func
from torch.autograd import forward_ad, functional, grad
from torch.utils.checkpoint import checkpoint

from pargo_kernels.cascaded_partial_attention import cascaded_partial_attention
from pargo_kernels.merge import merge_attention_states
from pargo_kernels.partial_global_attention import partial_global_attention
from pargo_mllm.configuration import ParGoProjectorConfig
from pargo_mllm.projectors import build_projector

OURS = "first derivatives in reverse mode only: its gradients have no gradients"
# said by torch of whatever was compiled
COMPILED = "does not currently support double backward|" + OURS


def fixed(like):
    return torch.linspace(-1, 2, like.numel(), dtype=like.dtype).sin().reshape(like.shape)


def linear(function):
    """A loss whose gradient by ``function``'s output is a constant: its second derivative is all from the op."""
    return lambda *tensors: (function(*tensors) * fixed(tensors[0])).sum()


def pgp(impl, **options):
    return lambda q, k, v: partial_global_attention(q, k, v, 4, impl=impl, **options)


def cpp(impl, **options):
    return lambda q, k, v: cascaded_partial_attention(q, k, v, 3, num_partial=5, impl=impl, **options)


OPS = {"partial_global": pgp, "cascaded": cpp}


def through_lse(op, impl):
    return lambda q, k, v: op(impl, return_lse=True)(q, k, v)[1].unsqueeze(-1) * fixed(q)


def through_merge(op, impl):
    def merged(q, k, v):
        parts = (op(impl, return_lse=True)(q, *kv) for kv in ((k, v), (1.5 * k, v + 1)))
        return merge_attention_states(*next(parts), *next(parts))[0]

    return merged


FORMS = {"out": lambda op, impl: op(impl), "lse": through_lse, "merge": through_merge}


def inputs(requires_grad=False):
    torch.manual_seed(0)
    shapes = (1, 2, 6, 4), (1, 1, 6, 4), (1, 1, 6, 4)
    return [torch.randn(shape, dtype=torch.double, requires_grad=requires_grad) for shape in shapes]


def of_query(function, tensors):
    return lambda q: function(q, *tensors[1:])


def by_backward(f, tensors):
    leaves = inputs(True)
    grads = grad(linear(f)(*leaves), leaves, create_graph=True, allow_unused=True)
    sum(g.square().sum() for g in grads if g is not None).backward()
    return leaves[0].grad


def by_backward_of_backward(f, tensors):
    query, *others = inputs(True)
    linear(f)(query, *others).backward(create_graph=True)
    first, query.grad = query.grad, None
    first.square().sum().backward()
    return query.grad


def by_grad(f, tensors):
    query, *others = inputs(True)
    (first,) = grad(linear(f)(query, *others), query, create_graph=True)
    return grad((first * fixed(first)).sum(), query)[0]


def by_grad_of_a_nonlinear_loss(f, tensors):
    query, *others = inputs(True)
    (first,) = grad(f(query, *others).square().sum(), query, create_graph=True)
    return grad(first.sum(), query)[0]


def by_the_output_gradient(f, tensors):
    query, *others = inputs(True)
    out = f(query, *others)
    grad_out = fixed(out).requires_grad_()
    (first,) = grad(out, query, grad_out, create_graph=True)
    return grad((first * fixed(first)).sum(), grad_out)[0]


def by_gradient_penalty(f, tensors):
    query, key, value = inputs(True)
    loss = linear(f)(query, key, value)
    (first,) = grad(loss, query, create_graph=True)
    # the loss alone has a gradient: a penalty that were silently left out would not be noticed
    (loss + (first.norm() - 1).square()).backward()
    return key.grad


def by_batched_gradients(f, tensors):
    query, *others = inputs(True)
    out = f(query, *others)
    grads = grad(out, query, torch.stack([fixed(out)] * 2), create_graph=True, is_grads_batched=True)
    return grad(grads[0].square().sum(), query)[0]


def by_checkpointing(f, tensors):
    return by_grad(lambda *t: checkpoint(f, *t, use_reentrant=False), tensors)


def by_a_tensor_hook(f, tensors):
    query, *others = inputs(True)
    seen, inner = [], query * 1.0
    inner.register_hook(seen.append)
    linear(f)(inner, *others).backward(create_graph=True)
    return grad(seen[0].square().sum(), query)[0]


def by_gradgradcheck(f, tensors):
    assert torch.autograd.gradgradcheck(f, inputs(True))
    return tensors[0]


def by_dual_tensors_in_a_backward(f, tensors):
    out = f(*(leaves := inputs(True)))
    with forward_ad.dual_level():
        (first,) = grad(out, leaves[0], forward_ad.make_dual(fixed(out), fixed(out)))
        return forward_ad.unpack_dual(first).tangent


def by_backward_of_func_grad(f, tensors):
    query, *others = inputs(True)
    func.grad(of_query(linear(f), tensors))(query).square().sum().backward()
    return query.grad


def by_vjp_of_vjp(f, tensors):
    loss = of_query(linear(f), tensors)

    def first(q):
        return func.vjp(loss, q)[1](torch.ones((), dtype=q.dtype))[0]

    return func.vjp(first, tensors[0])[1](fixed(tensors[0]))[0]


def by_grad_of_mapped_grad(f, tensors):
    first = func.vmap(func.grad(of_query(linear(f), tensors)))
    return func.grad(lambda q: first(q).square().sum())(torch.stack([tensors[0]] * 2))


def functional_vjp(loss, query):
    query = query.clone().requires_grad_()
    functional.vjp(loss, query, create_graph=True)[1].square().sum().backward()
    return query.grad


def functional_jacobian(loss, query, **options):
    query = query.clone().requires_grad_()
    functional.jacobian(loss, query, create_graph=True, **options).square().sum().backward()
    return query.grad


# of a loss by query: what torch offers ready-made
TRANSFORMS = {
    "func.grad(grad)": lambda loss, q: func.grad(lambda q: (func.grad(loss)(q) * fixed(q)).sum())(q),
    "vmap of grad(grad)": lambda loss, q: func.vmap(func.grad(lambda q: (func.grad(loss)(q) * fixed(q)).sum()))(q[None]),
    "jacrev(jacrev)": lambda loss, q: func.jacrev(func.jacrev(loss))(q),
    "jacfwd(grad)": lambda loss, q: func.jacfwd(func.grad(loss))(q),
    "jacrev(jacfwd)": lambda loss, q: func.jacrev(func.jacfwd(loss))(q),
    "func.hessian": lambda loss, q: func.hessian(loss)(q),
    "jvp of grad": lambda loss, q: func.jvp(func.grad(loss), (q,), (fixed(q),))[1],
    "linearize of grad": lambda loss, q: func.linearize(func.grad(loss), q)[1](fixed(q)),
}
FUNCTIONAL = {
    "functional.hessian": functional.hessian,
    "functional.hessian, vectorized": lambda loss, q: functional.hessian(loss, q, vectorize=True),
    "functional.hessian, forward mode": lambda loss, q: functional.hessian(
        loss, q, vectorize=True, outer_jacobian_strategy="forward-mode"
    ),
    "functional.vhp": lambda loss, q: functional.vhp(loss, q, fixed(q))[1],
    "functional.hvp": lambda loss, q: functional.hvp(loss, q, fixed(q))[1],
    "functional.vjp": functional_vjp,
    "functional.jacobian": functional_jacobian,
    "functional.jacobian, vectorized": lambda loss, q: functional_jacobian(loss, q, vectorize=True),
}
FORWARD = {
    "jvp": lambda f, q: func.jvp(f, (q,), (fixed(q),))[1],
    "jacfwd": lambda f, q: func.jacfwd(f)(q),
    "vmap of jvp": lambda f, q: func.vmap(lambda v: func.jvp(f, (q,), (v,))[1])(fixed(q)[None]),
    "linearize": lambda f, q: func.linearize(f, q)[1](fixed(q)),
    "functional.jvp": lambda f, q: functional.jvp(f, q, fixed(q))[1],
    "functional.jacobian, forward mode": lambda f, q: functional.jacobian(f, q, strategy="forward-mode", vectorize=True),
}


def dual_tensors(f, q):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(q, fixed(q)))).tangent


def dual_tensors_without_gradients(f, q):
    with torch.no_grad():
        return dual_tensors(f, q.clone().requires_grad_())


FORWARD |= {"dual tensors": dual_tensors, "dual tensors, no_grad": dual_tensors_without_gradients}

WAYS = {name: way for name, way in list(globals().items()) if name.startswith("by_")}
WAYS |= {name: lambda f, t, way=way: way(of_query(linear(f), t), t[0]) for name, way in (TRANSFORMS | FUNCTIONAL).items()}
WAYS |= {name: lambda f, t, way=way: way(of_query(f, t), t[0]) for name, way in FORWARD.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("way", WAYS)
def test_an_error_however_one_asks(way, op, form):
    value = WAYS[way](FORMS[form](OPS[op], "reference"), inputs())
    assert value.isfinite().all()
    assert value.abs().max() > 1e-3
    with pytest.raises(RuntimeError, match=OURS):
        WAYS[way](FORMS[form](OPS[op], "torch"), inputs())


def test_an_error_on_every_backend(backend):
    query, key, value = (t.float().to(backend.device).requires_grad_() for t in inputs())
    for op in OPS.values():
        (first,) = grad(op(backend.impl)(query, key, value).sum(), query, create_graph=True)
        with pytest.raises(RuntimeError, match=OURS):
            first.sum().backward()
        with pytest.raises(RuntimeError, match="no forward-mode derivative.*impl='reference'"):
            func.jvp(lambda q, op=op: op(backend.impl)(q, key, value), (query.detach(),), (query.detach(),))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("way", ["by_backward", "by_gradient_penalty", "by_checkpointing", "functional.hvp", "dual tensors"])
def test_an_error_of_a_compiled_op(way, op):
    compiled = torch.compile(OPS[op]("torch"), backend="aot_eager", fullgraph=True)
    with pytest.raises(RuntimeError, match=COMPILED):
        WAYS[way](compiled, inputs())


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("way", ["func.grad(grad)", "jacrev(jacrev)", "func.hessian", "jvp", "jacfwd"])
def test_an_error_where_the_transform_is_compiled_too(way, op):
    tensors = inputs()
    compiled = torch.compile(lambda q: WAYS[way](OPS[op]("torch"), [q, *tensors[1:]]), backend="aot_eager", fullgraph=True)
    with pytest.raises(RuntimeError, match=OURS):
        compiled(tensors[0])


FIRST = {
    "grad": lambda f, q: func.grad(linear(f))(q),
    "vjp": lambda f, q: func.vjp(f, q)[1](fixed(q))[0],
    "jacrev": lambda f, q: func.jacrev(f)(q),
    "vmap of grad": lambda f, q: func.vmap(func.grad(linear(f)))(torch.stack((q, 2 * q))),
    "grad of vmap": lambda f, q: func.grad(lambda q: func.vmap(f)(q).square().sum())(torch.stack((q, 2 * q))),
    "grad of what holds a gradient": lambda f, q: func.grad(lambda s: (s * s * func.grad(linear(f))(q)).sum())(q.sum()),
}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("transform", FIRST)
def test_first_derivatives_are_given(transform, op):
    tensors = inputs()

    def result(impl):
        return lambda q: FIRST[transform](of_query(OPS[op](impl), tensors), q)

    expected = result("reference")(tensors[0])
    torch.testing.assert_close(result("torch")(tensors[0]), expected)
    compiled = torch.compile(result("torch"), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(tensors[0]), expected)


def test_create_graph_alone_gives_the_gradient():
    leaves = inputs(True)
    for op in OPS.values():
        plain, kept = (grad(linear(op("torch"))(*leaves), leaves, create_graph=keep) for keep in (False, True))
        for one, other in zip(plain, kept, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_whole_projector(compiled):
    torch.manual_seed(0)
    config = ParGoProjectorConfig(
        vision_hidden_size=16, output_size=16, hidden_size=16, num_attention_heads=2, num_hidden_layers=2,
        num_partial_tokens=4, num_global_tokens=2,
    )  # fmt: skip
    projector = build_projector(config)
    features = torch.randn(1, 16, 16, requires_grad=True)
    forward = torch.compile(projector, backend="aot_eager") if compiled else projector
    (first,) = grad(forward(features).sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match=COMPILED if compiled else OURS):
        first.norm().backward()


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_one_tensor_in_several_places_compiles(requires_grad, dynamic):
    """A traced Function refused it: "duplicate tensor input"."""
    calls = (
        lambda x: cascaded_partial_attention(x, x, x, 3),
        lambda x: cascaded_partial_attention(x * 2, x, x, 3),
        lambda x: partial_global_attention(x, x, x, 4),
        lambda x: partial_global_attention(x * 2, x, x, 4),
    )
    for call in calls:
        results = []
        for function in (call, torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=dynamic)):
            x = inputs()[0].requires_grad_(requires_grad)
            results.append([function(x)])
            if requires_grad:
                results[-1] += grad(results[-1][0].square().sum(), x)
        for eager, compiled in zip(*results, strict=True):
            torch.testing.assert_close(compiled, eager)
