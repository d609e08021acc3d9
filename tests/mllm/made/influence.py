"""Features for a projector, and which of them its tokens react to."""

import torch


def features(batch=2, count=16, seed=1):
    return torch.randn(batch, count, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def influence(function, source):
    """bool [rows, positions]: which rows of function(batch) move when one position of ``source`` [n, c] is changed."""
    changed = source.repeat(len(source), 1, 1)
    for position in range(len(source)):
        changed[position, position] += 3 * torch.randn(source.shape[1], dtype=source.dtype)
    with torch.no_grad():
        return ((function(changed) - function(source[None])).abs().amax(-1) > 1e-10).T
