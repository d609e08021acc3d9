"""What the corner cases of test_accuracy.py launch, planned on tensors without storage, to be compiled before they run."""

import torch

from pargo_kernels.triton_path import cascaded, partial_global
from tests.kernels.made.corners import CORNERS


def launches(arch):
    """The launches of every corner case in every dtype, both directions."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for corner in CORNERS.values():
            yield from _launches(corner._replace(dtype=dtype), arch)


def _launches(problem, arch):
    query, key, value, grad_out, grad_lse = problem.tensors("meta")
    arguments = problem.arguments
    out, lse = torch.empty_like(query), torch.empty_like(grad_lse)
    gradients = [torch.empty_like(t) for t in (query, key, value)]
    scale = problem.dim**-0.5
    if problem.op == "cascaded":
        settings = (arguments["window"], arguments["num_partial"], arguments["edge"], scale, arch)
        tensors = (query, key, value, out, lse)
        yield from cascaded.forward_launches(*tensors, *settings)
        yield from cascaded.backward_launches(grad_out, grad_lse, *tensors, *gradients, *settings)
        return
    offsets = arguments.get("cu_seqlens_k")
    tensors = (query, key, value, None if offsets is None else offsets.to("meta"), out, lse)
    settings = (arguments["num_partial"], scale, arch)
    yield from partial_global.forward_launches(*tensors, *settings)
    yield from partial_global.backward_launches(grad_out, grad_lse, *tensors, *gradients, *settings)
