"""What a call of each op costs in Python, before and besides the kernels.

    make bench-micro

"planned" plans every launch and starts none, so it runs anywhere; "launched" needs a GPU and includes Triton's own launch
(the kernels of so small a call finish sooner). With gradients it is the forward that records them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if not torch.cuda.is_available():
    # the kernels' host code takes CPU tensors only where they are interpreted; none is started
    os.environ["TRITON_INTERPRET"] = "1"

from pargo_kernels.ops import cascaded_partial_attention, partial_global_attention
from pargo_kernels.triton_path import cascaded, partial_global
from pargo_kernels.triton_path.launch import Launch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CALLS = {
    "partial-global": lambda query, key, value: partial_global_attention(query, key, value, 288, impl="triton"),
    "cascaded": lambda query, key, value: cascaded_partial_attention(query, query, query, 48, impl="triton"),
}


def plan_only(launches: Iterable[Launch], device: torch.device) -> None:
    """Walk over the launches and start none."""
    for _ in launches:
        pass


@pytest.fixture(params=("planned", "launched"))
def launching(request, monkeypatch):
    if request.param == "planned":
        for module in (partial_global, cascaded):
            monkeypatch.setattr(module, "run", plan_only)
    elif DEVICE == "cpu":
        pytest.skip("no CUDA device here: no kernel is launched")
    torch.set_num_threads(1)


@pytest.mark.parametrize("grad", (False, True), ids=("without grad", "with grad"))
@pytest.mark.parametrize("name", CALLS)
def test_call(benchmark, launching, name, grad):
    shapes = ((1, 2, 304, 16), (1, 2, 576, 16), (1, 2, 576, 16))
    tensors = [torch.randn(shape, device=DEVICE, requires_grad=grad) for shape in shapes]
    benchmark.extra_info["device"] = DEVICE
    benchmark(CALLS[name], *tensors)
