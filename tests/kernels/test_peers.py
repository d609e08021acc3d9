"""The cascade's band against other packages' own idea of a sliding window, where they are installed."""

import importlib.util

import pytest
import torch

from pargo_kernels.cascaded_partial_attention import cascaded_partial_attention

HAS_NATTEN = importlib.util.find_spec("natten") is not None


@pytest.mark.skipif(not HAS_NATTEN, reason="natten is not installed: pip install --no-deps --no-build-isolation natten")
@pytest.mark.parametrize(
    ("tokens", "window"), [(5, 2), (16, 3), (50, 7), (64, 12), (129, 129), (288, 48), (512, 101), (512, 256)]
)
def test_clamped_band_is_nattens_neighbourhood(backend, tokens, window):
    from natten.functional import na1d

    torch.manual_seed(0)
    tensors = [torch.randn(2, 3, tokens, 16, device=backend.device) for _ in range(3)]
    ours = cascaded_partial_attention(*tensors, window, impl=backend.impl)
    # its flex back end runs anywhere, forward only on a CPU
    theirs = na1d(*(t.transpose(1, 2) for t in tensors), kernel_size=window, backend="flex-fna").transpose(1, 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
