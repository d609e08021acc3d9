"""The interval layouts of ParGo: every query row sees one contiguous interval of keys.

This file is the only place where the layouts are defined. The dense mask of the oracle, the torch path, the index
arithmetic of the Triton kernels, the plots and the traffic model all follow from it.

Partial-global attention (ParGo, Eq. 1): partial row ``i`` of ``n_p`` sees the slice
``[i * n_v // n_p, (i + 1) * n_v // n_p)`` of the ``n_v`` visual tokens; global rows see all of them.

Cascaded attention (ParGo, Eq. 2): a token sees a window of ``w`` adjacent tokens. ``edge="clamp"`` shifts the window
inward at the borders, so that every token sees exactly ``w`` (the figure in the paper, and NATTEN's 1-D neighbourhood);
``edge="truncate"`` cuts the window at the borders (flash-attention's ``window_size=(w // 2, w - 1 - w // 2)``).
"""

from __future__ import annotations

import torch

from pargo_kernels.settings import as_count

EDGES = ("clamp", "truncate")


def partial_start(row, num_partial, num_keys):
    """First key of partial row ``row``; ``row == num_partial`` gives ``num_keys``.

    Equal to ``row * num_keys // num_partial``, written so that no intermediate exceeds ``num_partial ** 2``.
    Works on ints and on integer tensors.
    """
    return row * (num_keys // num_partial) + (row * (num_keys % num_partial)) // num_partial


def partial_owner(key, num_partial, num_keys):
    """The partial row whose slice holds key ``key`` (inverse of :func:`partial_start`). Needs 64-bit integers."""
    return ((key + 1) * num_partial - 1) // num_keys


def partial_bounds(num_partial: int, num_keys: int) -> torch.Tensor:
    """Slices of the partial rows (Eq. 1), int64 ``[num_partial, 2]``, half-open.

    Slices are disjoint, cover ``[0, num_keys)``, and differ in length by at most one.

    Raises:
        TypeError: for what is no integer.
        ValueError: if ``num_partial`` is negative or exceeds ``num_keys``.
    """
    num_partial, num_keys = as_count("num_partial", num_partial), as_count("num_keys", num_keys)
    if num_partial < 0:
        raise ValueError(f"num_partial={num_partial} must be at least 0; pass the number of partial rows.")
    if num_partial > num_keys:
        raise ValueError(
            f"num_partial={num_partial} exceeds num_keys={num_keys}: every partial row needs at least one key; "
            "use fewer partial rows or more visual tokens."
        )
    return partial_slices(num_partial, num_keys)


def partial_slices(num_partial: int, num_keys: int) -> torch.Tensor:
    """:func:`partial_bounds` without the check: with fewer keys than rows, some slices are empty."""
    if num_partial == 0:
        return torch.empty(0, 2, dtype=torch.int64)
    starts = partial_start(torch.arange(num_partial + 1, dtype=torch.int64), num_partial, num_keys)
    return torch.stack((starts[:-1], starts[1:]), dim=1)


def window_bounds(num_tokens: int, window: int, edge: str = "clamp") -> torch.Tensor:
    """Windows of the cascade (Eq. 2), int64 ``[num_tokens, 2]``, half-open.

    Raises:
        ValueError: if ``window`` is not in ``1 ... num_tokens`` or ``edge`` is unknown.
    """
    num_tokens, window = _check_window(num_tokens, window, edge)
    start = torch.arange(num_tokens, dtype=torch.int64) - window // 2
    if edge == "clamp":
        start = start.clamp(0, num_tokens - window)
        return torch.stack((start, start + window), dim=1)
    return torch.stack((start.clamp(min=0), (start + window).clamp(max=num_tokens)), dim=1)


def window_rows(num_tokens: int, window: int, edge: str = "clamp") -> torch.Tensor:
    """The rows that see each key: the inverse of :func:`window_bounds`, int64 ``[num_tokens, 2]``, half-open."""
    num_tokens, window = _check_window(num_tokens, window, edge)
    key = torch.arange(num_tokens, dtype=torch.int64)
    first = key - window + window // 2 + 1
    last = key + window // 2 + 1
    if edge == "clamp":
        first = torch.where(key < window, 0, first)
        last = torch.where(key >= num_tokens - window, num_tokens, last)
    return torch.stack((first.clamp(min=0), last.clamp(max=num_tokens)), dim=1)


def cascade_windows(num_partial: int, num_layers: int) -> list[int]:
    """Window of each layer, first to last: ``max(1, l * num_partial // num_layers)`` for ``l = 1 ... num_layers``.

    The last layer's window is ``num_partial``: under ``edge="clamp"`` it sees every partial token.
    """
    num_partial, num_layers = as_count("num_partial", num_partial), as_count("num_layers", num_layers)
    if num_partial < 1:
        raise ValueError(f"num_partial={num_partial} must be at least 1; a cascade needs partial tokens.")
    if num_layers < 1:
        raise ValueError(f"num_layers={num_layers} must be at least 1.")
    return [max(1, layer * num_partial // num_layers) for layer in range(1, num_layers + 1)]


def interval_mask(bounds: torch.Tensor, num_keys: int) -> torch.Tensor:
    """Dense boolean mask of an interval layout: ``[n, num_keys]``, True where the row sees the key.

    For tests, pictures and dense baselines; the ops never build it.

    Raises:
        TypeError, ValueError: if ``bounds`` is no tensor ``[n, 2]``, or ``num_keys`` no count.
    """
    num_keys = as_count("num_keys", num_keys)
    if not isinstance(bounds, torch.Tensor):
        raise TypeError(f"bounds is a {type(bounds).__name__}; it must be a tensor [n, 2], as partial_bounds gives it.")
    if bounds.dim() != 2 or bounds.shape[1] != 2:
        raise ValueError(f"bounds has shape {list(bounds.shape)}; it must be [n, 2], as partial_bounds gives it.")
    key = torch.arange(num_keys, device=bounds.device)
    return (key >= bounds[:, :1]) & (key < bounds[:, 1:])


def _check_window(num_tokens: int, window: int, edge: str) -> tuple[int, int]:
    num_tokens, window = as_count("num_tokens", num_tokens), as_count("window", window)
    if not 1 <= window <= num_tokens:
        raise ValueError(
            f"window={window} must lie in 1...{num_tokens} (the number of tokens in the band); "
            "cascade_windows(num_partial, num_layers) gives the paper's windows."
        )
    if edge not in EDGES:
        raise ValueError(f"edge={edge!r} is unknown: use 'clamp' (the paper's windows) or 'truncate'.")
    return num_tokens, window
