"""Joining an attention to torch: a forward and a backward op in ``torch.ops.pargo_kernels``, and what differentiates them.

Both attentions have the same form: tensors in, then settings, then the implementation's name; out and lse come out. The
implementation modules (``torch_path``, ``c_path``, ``triton_path``) offer ``forward(*tensors, *settings)`` and
``backward(grad_out, grad_lse, *tensors, out, lse, *settings)`` and are imported at their first use, so that the package
works without triton.

``Library.define`` with kernels of our own for autograd rather than ``custom_op`` or ``register_autograd``: half the overhead,
and torch.func and torch.compile reach the same gradients. There are first derivatives in reverse mode and no others: whatever
else is asked for, in whatever way, raises instead of giving zeros.
"""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad

from pargo_kernels.dispatch import cpu_impl

_library = torch.library.Library("pargo_kernels", "DEF")


class Ops(NamedTuple):
    """The registered ops of one attention."""

    forward: torch._ops.OpOverload
    backward: torch._ops.OpOverload
    function: type[torch.autograd.Function]


def define(name: str, *, inputs: str, settings: str, num_tensors: int, module: str) -> Ops:
    """Register ``name_forward`` and ``name_backward``.

    Args:
        inputs: schema of the tensors; query, key and value first.
        settings: schema of the settings; ``str impl`` is appended.
        num_tensors: how many tensors ``inputs`` names.
        module: the module below ``torch_path``, ``c_path`` and ``triton_path`` that computes it.
    """
    tags = (torch.Tag.needs_exact_strides,)
    _library.define(f"{name}_forward({inputs}, {settings}, str impl) -> (Tensor, Tensor)", tags=tags)
    _library.define(
        f"{name}_backward(Tensor grad_out, Tensor? grad_lse, {inputs}, Tensor out, Tensor lse, {settings}, str impl)"
        " -> (Tensor, Tensor, Tensor)",
        tags=tags,
    )

    def forward_impl(query, *rest):
        return forward_fake(query) if query.numel() == 0 else _run(module, "forward", query, (query, *rest))

    def backward_impl(grad_out, grad_lse, query, key, value, *rest):
        if query.numel() == 0:
            return tuple(torch.zeros_like(t) for t in (query, key, value))
        return _run(module, "backward", query, (grad_out, grad_lse, query, key, value, *rest))

    def forward_fake(query, *_):
        return torch.empty_like(query), query.new_empty(query.shape[:3], dtype=lse_dtype(query.dtype))

    def backward_fake(_grad_out, _grad_lse, query, key, value, *_):
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)

    for suffix, impl, fake in (("forward", forward_impl, forward_fake), ("backward", backward_impl, backward_fake)):
        _library.impl(f"{name}_{suffix}", impl, "CompositeExplicitAutograd")
        torch.library.register_fake(f"pargo_kernels::{name}_{suffix}", fake, lib=_library)

    forward_op = getattr(torch.ops.pargo_kernels, f"{name}_forward").default
    backward_op = getattr(torch.ops.pargo_kernels, f"{name}_backward").default
    # out and lse have the query's heads; the gradients those of query, key and value, behind grad_out and grad_lse
    for op, like in ((forward_op, (0, 0)), (backward_op, (2, 3, 4))):
        torch.library.register_vmap(op._schema.name, _vmap_rule(op, like), lib=_library)
    function = _function(name, forward_op, backward_op, num_tensors)

    # compiled graphs, exported programs and functional transforms call the bare ops
    def differentiable_forward(*args):
        if _records(args[:3]):
            return _apply(function, *args)
        return _below_autograd(forward_op, *args)

    def differentiable_backward(*args):
        if _records(args[: num_tensors + 4]):
            return _apply(Once, name, functools.partial(_lower, backward_op), *args)
        return _below_autograd(backward_op, *args)

    _library.impl(f"{name}_forward", differentiable_forward, "Autograd")
    _library.impl(f"{name}_backward", differentiable_backward, "Autograd")
    return Ops(forward_op, backward_op, function)


def call(ops: Ops, tensors: tuple, settings: tuple) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the op on ``tensors`` and ``settings`` (the implementation's name last); autograd only where it is wanted."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        # a traced Function refuses one tensor in two places
        return ops.forward(*tensors, *settings)
    # the bare op would come to the same, microseconds later
    if _records(tensors[:3]):
        return ops.function.apply(*tensors, *settings)
    return _below_autograd(ops.forward, *tensors, *settings)


def reverse_mode_only(name: str) -> str:
    """What is said where a derivative is asked for that there is none of."""
    return (
        f"{name} has first derivatives in reverse mode only: its gradients have no gradients (so no hessian, no vhp, no "
        "backward through create_graph=True), and there is no forward-mode derivative (jvp, jacfwd, dual tensors). Use "
        "impl='reference', plain torch with a dense mask in fp64, which can be differentiated in every way; first derivatives "
        "are had by backward, torch.func.grad, vjp and jacrev."
    )


class Once(torch.autograd.Function):
    """The gradients of an attention, computed by ``compute(*args)``: they raise where they are differentiated."""

    @staticmethod
    def forward(ctx, name, compute, *args):
        """What ``compute`` returns; ``name`` is what the error names."""
        ctx.name = name
        return compute(*args)

    @staticmethod
    def backward(ctx, *_):
        """Refused."""
        raise RuntimeError(reverse_mode_only(ctx.name))

    @staticmethod
    def jvp(ctx, *_):
        """Refused."""
        raise RuntimeError(reverse_mode_only(ctx.name))


def differentiated() -> bool:
    """True inside a backward pass that may itself be differentiated: its gradients are then to come out of :class:`Once`."""
    return torch.is_grad_enabled() or forward_ad._current_level >= 0


def _records(tensors) -> bool:
    # tangents are for a Function to refuse: below autograd they would be dropped
    if forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _apply(function, *args):
    # inside a transform's level the dispatcher has unwrapped what belongs to outer ones: torch.autograd.Function.apply would
    # begin with the innermost transform again
    if torch._C._are_functorch_transforms_active():
        with enable_single_level_autograd_function():
            return super(torch.autograd.Function, function).apply(*args)
    return function.apply(*args)


def _below_autograd(op, *args):
    # nothing is recorded here: the op's own autograd kernel, which exported programs need, would cost microseconds
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def _lower(op, *args):
    # inside a Function: it has switched off recording, which an outer transform may want
    if not torch._C._are_functorch_transforms_active():
        return _below_autograd(op, *args)
    with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
        return _below_autograd(op, *args)


def lse_dtype(dtype: torch.dtype) -> torch.dtype:
    """dtype of the log-sum-exp for inputs of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _vmap_rule(op, like: tuple[int, ...]):
    """The rule of an op whose results have the heads of the arguments ``like``."""

    def rule(info, in_dims, *args):
        # the mapped dimension becomes heads, beside the group structure and any packing
        folded, heads = [], []
        for dim, arg in zip(in_dims, args, strict=True):
            if not isinstance(arg, torch.Tensor) or arg.dim() < 3:
                # settings, and cu_seqlens_k, of which the checks refuse a mapped one
                folded.append(arg)
                heads.append(0)
            else:
                mapped = arg.unsqueeze(1) if dim is None else arg.movedim(dim, 1)
                mapped = mapped.expand(mapped.shape[0], info.batch_size, *mapped.shape[2:])
                folded.append(mapped.flatten(1, 2))
                heads.append(mapped.shape[2])
        if info.batch_size == 0:
            # no heads at all, which the op refuses for keys: empty results as they are
            results = [folded[index] for index in like]
            if len(results) == 2:
                results[1] = results[1].new_empty(results[1].shape[:3], dtype=lse_dtype(results[1].dtype))
        else:
            results = op(*folded)
        unfolded = (t.unflatten(1, (info.batch_size, heads[index])) for t, index in zip(results, like, strict=True))
        return tuple(unfolded), (1,) * len(like)

    return rule


@functools.cache
def _path(impl: str, module: str, direction: str) -> Callable:
    return getattr(importlib.import_module(f"pargo_kernels.{impl}_path.{module}"), direction)


def _run(module: str, direction: str, query: torch.Tensor, args: tuple):
    impl = args[-1]
    compute = _path(cpu_impl(query) if impl == "cpu" else impl, module, direction)
    if not torch._C._is_any_autocast_enabled():
        return compute(*args[:-1])
    device_type = args[0].device.type
    with torch.autocast(device_type, enabled=False):
        return compute(*args[:-1])


def _function(name: str, forward_op, backward_op, num_tensors: int) -> type[torch.autograd.Function]:
    def forward(ctx, *args):
        output = _lower(forward_op, *args)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*args[:num_tensors], *output)
        ctx.settings = args[num_tensors:]
        return output

    def backward(ctx, grad_out, grad_lse):
        saved = ctx.saved_tensors
        if grad_out is None:
            grad_out = torch.zeros_like(saved[num_tensors])
        args = (grad_out, grad_lse, *saved, *ctx.settings)
        # all three, whichever are wanted: one pass gives them
        grads = backward_op(*args) if differentiated() else _below_autograd(backward_op, *args)
        return (*grads, *[None] * (num_tensors - 3 + len(ctx.settings)))

    def jvp(ctx, *_):
        raise RuntimeError(reverse_mode_only(name))

    # the class is made under the op's name: graphs and profiles show it
    methods = {method.__name__: staticmethod(method) for method in (forward, backward, jvp)}
    return types.new_class(name, (torch.autograd.Function,), exec_body=lambda body: body.update(methods))
