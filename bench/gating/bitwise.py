"""Is every kernel right in every dtype, twice the same bit for bit, and an image the same alone as in a batch or packed?

    python -m bench.gating.bitwise                        bf16, fp16 and fp32, on the GPU
    TRITON_INTERPRET=1 python -m bench.gating.bitwise --dtypes fp32 fp16 --small

Prints a line for each call and dtype; exit status 1 if any of them differs, or is further from the fp64 reference than
rounding explains.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import torch

from bench.gating.calls import CALLS, DTYPES, KERNELS, RESULTS, SMALL_CALLS, Call, Tensors, kernels_of, worst_error

# of a whole result, relative to its norm: twenty roundings. TF32 in the place of fp32 is 2e-4 or more
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 2.5e-3, torch.float32: 1e-5}
COLUMNS = "{:<16} {:<5} {:>10}  {:<8} {:<10} {}"


def check(call: Call, dtype: torch.dtype, device: torch.device) -> tuple[float, list[str], list[str]]:
    """The error against fp64, the results in which two runs differ, and those in which an image differs alone."""
    tensors = call.tensors(dtype, device)
    found = call.results(tensors, "triton")
    again = call.results(tensors, "triton")
    exact = call.results(tuple(t.double() for t in tensors), "reference")  # type: ignore[arg-type]
    twice = [name for name, one, other in zip(RESULTS, found, again, strict=True) if not torch.equal(one, other)]
    return worst_error(found, exact), twice, sorted(set(_differs_alone(call, tensors, found)))


def _differs_alone(call: Call, tensors: Tensors, together: tuple[torch.Tensor, ...]) -> Iterator[str]:
    # the only image of a batch is alone already
    for image in range(call.batch if call.batch > 1 else 0):
        single, mine, row, keys = call.alone(tensors, image)
        key_row = slice(None) if call.lengths else row
        everything = (row, slice(None))
        parts = (everything, everything, everything, (key_row, slice(None), keys), (key_row, slice(None), keys))
        for name, whole, part, alone in zip(RESULTS, together, parts, single.results(mine, "triton"), strict=True):
            if not torch.equal(whole[part], alone):
                yield name


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gating.bitwise", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--small", action="store_true", help="few and small calls, for Triton's interpreter")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # what a kernel forgets to write is NaN, not what the run before left there
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    calls = SMALL_CALLS if args.small else CALLS
    fine = True
    print(COLUMNS.format("call", "dtype", "error", "twice", "alone", "verdict"))
    for call in calls:
        for name in args.dtypes:
            error, twice, alone = check(call, DTYPES[name], device)
            faults = [f"two runs differ in {', '.join(twice)}"] if twice else []
            faults += [f"an image alone differs in {', '.join(alone)}"] if alone else []
            if not error <= TOLERANCE[DTYPES[name]]:
                faults.append(f"the error is over {TOLERANCE[DTYPES[name]]:.0e}")
            same = ["differs" if some else "equal" for some in (twice, alone)]
            print(COLUMNS.format(call.name, name, f"{error:.1e}", *same, "; ".join(faults) or "ok"), flush=True)
            fine = fine and not faults
    missed = KERNELS - kernels_of(calls)
    if missed:
        print(f"not launched: {', '.join(sorted(missed))}")
    return 0 if fine and not missed else 1


if __name__ == "__main__":
    sys.exit(main())
