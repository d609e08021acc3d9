"""Rivals made of other packages' sequence and window kernels, where they are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch

from bench.problems import Attention, Problem
from bench.provider import Place, Provider, sdpa
from pargo_kernels.intervals import partial_slices


class Varlen(Provider):
    """torch.nn.attention.varlen: partial rows as sequences of one query; the truncated band as a window."""

    name = "varlen"
    about = "torch.nn.attention.varlen.varlen_attn: a sequence for each partial row, or a window"

    def why_not_here(self, place: Place) -> str | None:
        if not place.on_cuda:
            return "varlen_attn needs a CUDA device"
        return None if place.half else "varlen_attn takes fp16 and bf16"

    def why_not(self, problem: Problem, place: Place, backward: bool) -> str | None:
        return _why_not_flash(problem)

    def build(self, problem: Problem, place: Place) -> Attention:
        from torch.nn.attention.varlen import varlen_attn

        if problem.op == "cpp":
            ends = _even_offsets(problem.batch, problem.num_keys, place)

            def band(query, key, value):
                tokens = (t.transpose(1, 2).flatten(0, 1) for t in (query, key, value))
                out = varlen_attn(*tokens, ends, ends, problem.num_keys, problem.num_keys, window_size=_sides(problem))
                return out.unflatten(0, (problem.batch, -1)).transpose(1, 2)

            return band
        return _partial_as_sequences(problem, place, varlen_attn)


class FlashAttn(Provider):
    """The flash-attn package, where it is installed."""

    name = "flash-attn"
    about = "the flash-attn package: a sequence for each partial row, or window_size"

    def why_not_here(self, place: Place) -> str | None:
        if importlib.util.find_spec("flash_attn") is None:
            return "flash-attn is not installed"
        return None if place.on_cuda and place.half else "flash-attn takes fp16 and bf16 on CUDA"

    def why_not(self, problem: Problem, place: Place, backward: bool) -> str | None:
        return _why_not_flash(problem)

    def build(self, problem: Problem, place: Place) -> Attention:
        from flash_attn import flash_attn_func, flash_attn_varlen_func

        if problem.op == "cpp":
            sides = _sides(problem)
            return lambda query, key, value: flash_attn_func(
                *(t.transpose(1, 2) for t in (query, key, value)), window_size=sides
            ).transpose(1, 2)
        return _partial_as_sequences(problem, place, flash_attn_varlen_func)


class Natten(Provider):
    """NATTEN's one-dimensional neighbourhood attention: the clamped band, exactly."""

    name = "natten"
    about = "natten.functional.na1d, where it is installed: the clamped band"
    ops = ("cpp",)

    def why_not_here(self, place: Place) -> str | None:
        return "natten is not installed" if importlib.util.find_spec("natten") is None else None

    def why_not(self, problem: Problem, place: Place, backward: bool) -> str | None:
        if problem.edge != "clamp":
            return "its windows are shifted at the borders, not cut"
        return "its windows are wider than 1" if problem.window == 1 else None

    def build(self, problem: Problem, place: Place) -> Attention:
        from natten.functional import na1d

        return lambda query, key, value: na1d(
            *(t.transpose(1, 2) for t in (query, key, value)), kernel_size=problem.window
        ).transpose(1, 2)


def _sides(problem: Problem) -> tuple[int, int]:
    """The truncated window as keys to the left and to the right of the row."""
    assert problem.window is not None
    return problem.window // 2, problem.window - 1 - problem.window // 2


def _why_not_flash(problem: Problem) -> str | None:
    if problem.op == "cpp":
        return None if problem.edge == "truncate" else "its windows are cut at the borders, not shifted"
    if problem.batch * problem.num_partial > 65535:
        return f"{problem.batch * problem.num_partial} sequences exceed a CUDA grid's limit of 65535"
    return None


def _even_offsets(count: int, length: int, place: Place) -> torch.Tensor:
    return torch.arange(count + 1, dtype=torch.int32, device=place.device) * length


def _partial_as_sequences(problem: Problem, place: Place, varlen: Callable) -> Attention:
    """Partial rows as sequences of one query each, by a varlen function; global rows by maskless flash."""
    rows, images = problem.num_partial, torch.arange(problem.batch)[:, None]
    row_ends = _even_offsets(problem.batch * rows, 1, place)
    begins = (partial_slices(rows, problem.num_keys)[:, 0] + images * problem.num_keys).flatten()
    key_ends = torch.cat((begins, torch.tensor([problem.batch * problem.num_keys]))).int().to(place.device)
    longest = -(-problem.num_keys // rows)

    def attend(query, key, value):
        # [B, H, tokens, D] → [B * tokens, H, D]
        row, keys, values = (t.transpose(1, 2).flatten(0, 1) for t in (query[:, :, :rows], key, value))
        partial = varlen(row, keys, values, row_ends, key_ends, 1, longest).unflatten(0, (problem.batch, rows))
        return torch.cat((partial.transpose(1, 2), sdpa(query[:, :, rows:], key, value, "flash")), dim=2)

    return attend
