"""Rivals made of other packages' sequence and window kernels, where they are installed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.contest.provider import Place, Provider, installed, sdpa
from bench.problems.attention import Attention, Problem
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
    """The flash-attn package, where it is installed: version 2, else 4."""

    name = "flash-attn"
    about = "the flash-attn package, 2 or else 4: a sequence for each partial row, or window_size"

    def why_not_here(self, place: Place) -> str | None:
        # flash-attn-4 alone makes flash_attn a package without functions
        if not installed("flash_attn.flash_attn_interface") and not installed("flash_attn.cute"):
            return "flash-attn is not installed: pip install --no-build-isolation flash-attn, or --pre flash-attn-4"
        return None if place.on_cuda and place.half else "flash-attn takes fp16 and bf16 on CUDA"

    def why_not(self, problem: Problem, place: Place, backward: bool) -> str | None:
        return _why_not_flash(problem)

    def build(self, problem: Problem, place: Place) -> Attention:
        if installed("flash_attn.flash_attn_interface"):
            from flash_attn.flash_attn_interface import flash_attn_func, flash_attn_varlen_func
        else:
            from flash_attn.cute import flash_attn_func, flash_attn_varlen_func

        if problem.op == "cpp":
            sides = _sides(problem)
            return lambda query, key, value: _first(
                flash_attn_func(*(t.transpose(1, 2) for t in (query, key, value)), window_size=sides)
            ).transpose(1, 2)

        def varlen(row, keys, values, row_ends, key_ends, longest_row, longest_key):
            # the two versions have their arguments in different orders
            return _first(
                flash_attn_varlen_func(
                    row,
                    keys,
                    values,
                    cu_seqlens_q=row_ends,
                    cu_seqlens_k=key_ends,
                    max_seqlen_q=longest_row,
                    max_seqlen_k=longest_key,
                )
            )

        return _partial_as_sequences(problem, place, varlen)


class Natten(Provider):
    """NATTEN's one-dimensional neighbourhood attention: the clamped band, exactly."""

    name = "natten"
    about = "natten.functional.na1d, where it is installed: the clamped band"
    ops = ("cpp",)

    def why_not_here(self, place: Place) -> str | None:
        if not installed("natten"):
            return "natten is not installed: NATTEN's install page has a build for each torch and CUDA"
        if not place.on_cuda:
            return None
        import natten

        # its fallback is FlexAttention, which is here under its own name
        return (
            None
            if natten.HAS_LIBNATTEN
            else "natten is installed without its CUDA kernels: NATTEN's install page has builds with them"
        )

    def why_not(self, problem: Problem, place: Place, backward: bool) -> str | None:
        if problem.edge != "clamp":
            return "its windows are shifted at the borders, not cut"
        if problem.window == 1:
            return "its windows are wider than 1"
        return "natten has no backward on a CPU" if backward and not place.on_cuda else None

    def build(self, problem: Problem, place: Place) -> Attention:
        from natten.functional import na1d

        return lambda query, key, value: na1d(
            *(t.transpose(1, 2) for t in (query, key, value)), kernel_size=problem.window
        ).transpose(1, 2)


def _first(result):
    """``out`` of functions that return it alone in some versions, and with the LSE in others."""
    return result[0] if isinstance(result, tuple) else result


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
