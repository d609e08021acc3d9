"""What a call costs the host, and how many kernels a model makes the compiler build. Needs no GPU.

    python bench/micro.py

Calls go all the way to the launch, through a driver that starts nothing; those of the C kernels compute a few cells. Beside
each stands its floor: the same registration with a body that only allocates the results; what is above it is this package's
own work. Rounds take turns.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from bench.contest.first_use import first_use
from bench.contest.timing import Key, quantiles
from bench.stub_driver import stub_driver
from pargo_kernels import registration
from pargo_kernels.c_path.library import why_not
from pargo_kernels.ops import cascaded_partial_attention, partial_global_attention

ROUNDS, CALLS = 200, 20
SHAPES = 200
LINE = "{:<24} {:>9} {:>9} {:>9}   {}"


def empty_forward(query, *_rest):
    """A forward's results, of whatever value."""
    return torch.empty_like(query), query.new_empty(query.shape[:3], dtype=registration.lse_dtype(query.dtype))


def empty_backward(_grad_out, _grad_lse, query, key, value, *_rest):
    """A backward's results, of whatever value."""
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def floor_ops() -> tuple[registration.Ops, registration.Ops]:
    """Both attentions registered once more, to be computed by a module "floor"."""
    windowed = "SymInt window, SymInt num_partial, str edge, float scale"
    packed = "Tensor query, Tensor key, Tensor value, Tensor? cu_seqlens_k"
    return (
        registration.define(
            "floor_pgp", inputs=packed, settings="SymInt num_partial, float scale", num_tensors=4, module="floor"
        ),
        registration.define(
            "floor_cpp", inputs="Tensor query, Tensor key, Tensor value", settings=windowed, num_tensors=3, module="floor"
        ),
    )


def calls(ops: tuple[registration.Ops, registration.Ops], grad: bool) -> dict[str, tuple[Callable, Callable]]:
    """By name: a call with the paper's numbers of tokens, and its floor."""
    # few and narrow heads: a large tensor on a CPU costs system calls, which none on a GPU does
    query, key, value = (torch.randn(1, 2, n, 16, dtype=torch.bfloat16, requires_grad=grad) for n in (304, 576, 576))
    pgp, cpp = ops
    # a computation of well under a microsecond
    small = torch.randn(1, 1, 4, 8, requires_grad=grad)
    forward = {
        "PGP": (
            lambda: partial_global_attention(query, key, value, 288, impl="triton"),
            lambda: registration.call(pgp, (query, key, value, None), (288, 0.125, "triton"))[0],
        ),
        "CPP": (
            lambda: cascaded_partial_attention(query, query, query, 48, impl="triton"),
            lambda: registration.call(cpp, (query, query, query), (48, 304, "clamp", 0.125, "triton"))[0],
        ),
        "PGP in C": (
            lambda: partial_global_attention(small, small, small, 3, impl="c"),
            lambda: registration.call(pgp, (small, small, small, None), (3, 0.125, "c"))[0],
        ),
        "CPP in C": (
            lambda: cascaded_partial_attention(small, small, small, 3, impl="c"),
            lambda: registration.call(cpp, (small, small, small), (3, 4, "clamp", 0.125, "c"))[0],
        ),
    }
    if why_not(torch.float32) is not None:
        forward = {name: pair for name, pair in forward.items() if not name.endswith("in C")}
    if not grad:
        return {f"{name} forward": pair for name, pair in forward.items()}

    def backward(call, leaves):
        grad = torch.randn_like(leaves[0])
        return lambda: torch.autograd.grad(call(), leaves, grad)

    leaves = {"PGP": (query, key, value), "CPP": (query,), "PGP in C": (small,), "CPP in C": (small,)}
    return {f"{name} forward, grad": pair for name, pair in forward.items()} | {
        f"{name} forward+backward": tuple(backward(call, leaves[name]) for call in pair) for name, pair in forward.items()
    }


def race(steps: dict[Key, Callable], rounds: int) -> dict[Key, list[float]]:
    """Microseconds of a call in each round."""
    taken: dict[Key, list[float]] = {name: [] for name in steps}
    for turn in range(rounds):
        order = list(steps)
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            step = steps[name]
            step()
            begin = time.perf_counter()
            for _ in range(CALLS):
                step()
            taken[name].append((time.perf_counter() - begin) / CALLS * 1e6)
    return taken


def measure_calls(rounds: int) -> str:
    """A table: floor, call and what is between them."""
    ops = floor_ops()
    path = registration._path

    def with_floor(impl: str, module: str, direction: str) -> Callable:
        if module == "floor":
            return empty_forward if direction == "forward" else empty_backward
        return path(impl, module, direction)

    with mock.patch.object(registration, "_path", with_floor), stub_driver():
        pairs = calls(ops, grad=False) | calls(ops, grad=True)
        small = torch.randn(304, 64)
        steps: dict[tuple[str, int], Callable] = {("torch.add", 0): lambda: torch.add(small, small)}
        steps |= {(name, index): step for name, pair in pairs.items() for index, step in enumerate(pair)}
        taken = race(steps, rounds)
    lines = [LINE.format("microseconds a call", "floor", "call", "above", "20 % and 80 % of the call")]
    for name in pairs:
        low, middle, high = quantiles(taken[name, 0])
        floor = quantiles(taken[name, 1])[1]
        lines.append(LINE.format(name, f"{floor:.1f}", f"{middle:.1f}", f"{middle - floor:.1f}", f"{low:.1f} {high:.1f}"))
    low, middle, high = quantiles(taken["torch.add", 0])
    lines.append(LINE.format("torch.add", "", f"{middle:.1f}", "", f"{low:.1f} {high:.1f}"))
    return "\n".join(lines)


def random_calls(count: int, seed: int = 0) -> list[Callable[[], None]]:
    """Forward and backward of one model (bf16, head dimension 64, 16 global tokens) at ``count`` shapes: any batch, any number
    of partial and visual tokens, one picture a row or packed, any window and layout."""
    rng = random.Random(seed)
    drawn = []
    for index in range(count):
        batch, rows = rng.randint(1, 4), rng.randint(1, 600)
        if index % 2:
            drawn.append(_any_cascade(rng, batch, rows))
        else:
            drawn.append(_any_partial_global(rng, batch, rows))
    return drawn


def _any_cascade(rng: random.Random, batch: int, rows: int) -> Callable[[], None]:
    x = _any_tensor(rng, batch, rows)
    window = rng.randint(1, rows)
    return lambda: _both_ways(x, cascaded_partial_attention(x, x, x, window, impl="triton"))


def _any_partial_global(rng: random.Random, batch: int, rows: int) -> Callable[[], None]:
    query = _any_tensor(rng, batch, rows + 16)
    lengths = [rng.randint(rows, rows * rng.choice((1, 2, 5, 20))) for _ in range(batch)]
    offsets = None
    if rng.random() < 0.5:
        # somewhere in a longer list of offsets: aligned to 4 bytes
        offsets = torch.tensor([0, 0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)[1:]
    key = _any_tensor(rng, batch if offsets is None else 1, lengths[0] if offsets is None else sum(lengths))
    return lambda: _both_ways(key, partial_global_attention(query, key, key, rows, cu_seqlens_k=offsets, impl="triton"))


def _any_tensor(rng: random.Random, batch: int, tokens: int) -> torch.Tensor:
    if rng.random() < 0.5:
        return torch.empty(batch, 2, tokens, 64, dtype=torch.bfloat16, requires_grad=True)
    return torch.empty(batch, tokens, 2, 64, dtype=torch.bfloat16, requires_grad=True).transpose(1, 2)


def _both_ways(leaf: torch.Tensor, out) -> None:
    torch.autograd.grad(out, leaf, torch.empty_like(out))


def count_kernels(shapes: int) -> tuple[Counter[str], Counter[str]]:
    """Kernels that one model makes the compiler build at ``shapes`` random shapes, and what as many further shapes add."""
    with stub_driver(compiling=False) as wanted:
        for call in random_calls(shapes, seed=0):
            call()
        first = Counter(wanted)
        for call in random_calls(shapes, seed=1):
            call()
    return first, Counter(wanted) - first


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of {CALLS} calls each; default: {ROUNDS}")
    parser.add_argument("--shapes", type=int, default=SHAPES, help=f"random shapes of one model; default: {SHAPES}")
    args = parser.parse_args(argv)
    for name in ("rounds", "shapes"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)} must be at least 1")
    torch.set_num_threads(1)
    print(measure_calls(args.rounds))
    calls = first_use()
    if isinstance(calls, str):
        print(f"\nC kernels: none, {calls}")
    else:
        print(f"\nC kernels: compiled in {calls.compiling:.1f} s, had from their cache in {1e3 * calls.cached:.0f} ms")
    first, further = count_kernels(args.shapes)
    print(f"\nkernels compiled for {args.shapes} random shapes of one model: {first.total()}")
    print(f"and for as many again: {further.total()}")
    for name, count in sorted(first.items()):
        print(f"  {name:<26} {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
