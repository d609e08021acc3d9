"""Joining an attention to torch: a forward and a backward op in ``torch.ops.pargo_kernels`` and one autograd.Function.

Both attentions have the same form: tensors in, then settings, then the implementation's name; out and lse come out. The
implementation modules (``torch_path``, ``c_path``, ``triton_path``) offer ``forward(*tensors, *settings)`` and
``backward(grad_out, grad_lse, *tensors, out, lse, *settings)`` and are imported at their first use, so that the package
works without triton.

``Library.define`` with an ``autograd.Function`` rather than ``custom_op`` with ``register_autograd``: half the overhead, and
torch.func.grad works (jvp and double backward raise instead of giving zeros).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.autograd import forward_ad

from pargo_kernels.dispatch import cpu_impl

_library = torch.library.Library("pargo_kernels", "DEF")


class Ops(NamedTuple):
    """The registered ops of one attention."""

    forward: torch._ops.OpOverload
    backward: torch._ops.OpOverload
    function: type[torch.autograd.Function]
    functional: type[torch.autograd.Function]


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
        return forward_fake(query) if query.numel() == 0 else _run(module, "forward", (query, *rest))

    def backward_impl(grad_out, grad_lse, query, key, value, *rest):
        if query.numel() == 0:
            return tuple(torch.zeros_like(t) for t in (query, key, value))
        return _run(module, "backward", (grad_out, grad_lse, query, key, value, *rest))

    def forward_fake(query, *_):
        return torch.empty_like(query), query.new_empty(query.shape[:3], dtype=lse_dtype(query.dtype))

    def backward_fake(_grad_out, _grad_lse, query, key, value, *_):
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)

    for suffix, impl, fake in (("forward", forward_impl, forward_fake), ("backward", backward_impl, backward_fake)):
        _library.impl(f"{name}_{suffix}", impl, "CompositeExplicitAutograd")
        torch.library.register_fake(f"pargo_kernels::{name}_{suffix}", fake, lib=_library)

    for suffix in ("forward", "backward"):
        op = getattr(torch.ops.pargo_kernels, f"{name}_{suffix}").default
        torch.library.register_vmap(f"pargo_kernels::{name}_{suffix}", _vmap_rule(op), lib=_library)

    forward_op = getattr(torch.ops.pargo_kernels, f"{name}_forward").default
    backward_op = getattr(torch.ops.pargo_kernels, f"{name}_backward").default
    function, functional = _functions(name, forward_op, backward_op, num_tensors)
    # exported programs call the bare op: it has the same gradient
    torch.library.register_autograd(
        f"pargo_kernels::{name}_forward", function.backward, setup_context=functional.setup_context, lib=_library
    )
    return Ops(forward_op, backward_op, function, functional)


def call(ops: Ops, tensors: tuple, settings: tuple) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the op on ``tensors`` and ``settings`` (the implementation's name last); autograd only where it is wanted."""
    if torch.compiler.is_compiling():
        # the bare op has its gradient registered: a traced Function refuses one tensor in two places
        return ops.forward(*tensors, *settings)
    query, key, value = tensors[:3]
    wants_grad = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    # a Function refuses forward-mode AD; the bare op would drop the tangents
    if wants_grad or forward_ad._current_level >= 0:
        function = ops.functional if torch._C._are_functorch_transforms_active() else ops.function
        return function.apply(*tensors, *settings)
    return _below_autograd(ops.forward, *tensors, *settings)


def _below_autograd(op, *args):
    # nothing is recorded here: the op's own autograd kernel, which exported programs need, would cost microseconds
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def lse_dtype(dtype: torch.dtype) -> torch.dtype:
    """dtype of the log-sum-exp for inputs of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _vmap_rule(op):
    def rule(info, in_dims, *args):
        # the mapped dimension becomes heads, beside the group structure and any packing
        folded = []
        for dim, arg in zip(in_dims, args, strict=True):
            if not isinstance(arg, torch.Tensor) or arg.dim() < 3:
                # settings, and cu_seqlens_k, of which the checks refuse a mapped one
                folded.append(arg)
            else:
                mapped = arg.unsqueeze(1) if dim is None else arg.movedim(dim, 1)
                mapped = mapped.expand(mapped.shape[0], info.batch_size, *mapped.shape[2:])
                folded.append(mapped.flatten(1, 2))
        results = op(*folded)
        return tuple(t.unflatten(1, (info.batch_size, -1)) for t in results), (1,) * len(results)

    return rule


@functools.cache
def _path(impl: str, module: str, direction: str) -> Callable:
    return getattr(importlib.import_module(f"pargo_kernels.{impl}_path.{module}"), direction)


def _run(module: str, direction: str, args: tuple):
    impl = args[-1]
    compute = _path(cpu_impl(args[0]) if impl == "cpu" else impl, module, direction)
    if not torch._C._is_any_autocast_enabled():
        return compute(*args[:-1])
    device_type = args[0].device.type
    with torch.autocast(device_type, enabled=False):
        return compute(*args[:-1])


def _functions(name: str, forward_op, backward_op, num_tensors: int) -> tuple[type[torch.autograd.Function], ...]:
    def save(ctx, inputs, output):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:num_tensors], *output)
        ctx.settings = inputs[num_tensors:]

    def gradients(compute, ctx, grad_out, grad_lse):
        saved = ctx.saved_tensors
        if grad_out is None:
            grad_out = torch.zeros_like(saved[num_tensors])
        return (*compute(grad_out, grad_lse, *saved, *ctx.settings), *[None] * (num_tensors - 3 + len(ctx.settings)))

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *args):
            output = _below_autograd(forward_op, *args)
            save(ctx, args, output)
            return output

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad_out, grad_lse):
            return gradients(backward_op, ctx, grad_out, grad_lse)

    class Gradients(torch.autograd.Function):
        """The backward where transforms can be nested: differentiated once more, it raises instead of giving zeros."""

        generate_vmap_rule = True

        @staticmethod
        def forward(*args):
            return backward_op(*args)

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, *_):
            raise RuntimeError(f"{name} cannot be differentiated twice: its gradients have no gradients.")

    # the form that functional transforms take: torch binds its arguments by signature at each call, which is slow
    class FunctionalAttention(Attention):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args):
            return _below_autograd(forward_op, *args)

        setup_context = staticmethod(save)

        @staticmethod
        def backward(ctx, grad_out, grad_lse):
            return gradients(Gradients.apply, ctx, grad_out, grad_lse)

    Attention.__name__ = Attention.__qualname__ = name
    FunctionalAttention.__name__ = FunctionalAttention.__qualname__ = f"functional_{name}"
    return Attention, FunctionalAttention
