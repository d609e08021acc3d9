"""Time launch parameters on the shapes that matter most, in seconds, and write down on what they were measured.

The lines are those that the paper's two attentions and their long forms use in bf16: partial-global with slices of two keys,
and the cascade. Candidates are compiled in many processes while the first of them are timed, as CUDA graphs with a cold cache.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, TimeoutError
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

from pargo_kernels.dispatch import interpreting
from pargo_kernels.triton_path import cascaded, launch_table, measured_lines, partial_global
from pargo_kernels.triton_path.compile_ahead import TARGETS, compile_launch
from pargo_kernels.triton_path.held import run
from pargo_kernels.triton_path.inspect_binary import spills
from pargo_kernels.triton_path.launch import Launch
from pargo_kernels.triton_path.launch_table import Entry

DTYPE = torch.bfloat16
HEAD_DIM = 64
KERNELS = (
    "partial_global_forward",
    "partial_global_backward",
    "cascaded_forward",
    "cascaded_query_backward",
    "cascaded_key_backward",
)
# (block_n, num_warps, num_stages)
TILES = (*product((32, 64, 128), (2, 4), (2, 3, 4)), (64, 4, 1), (64, 8, 2))
# (block_m, block_n, num_warps, num_stages)
BANDS = tuple((m, n, w, s) for (m, n), w, s in product(((64, 64), (64, 32), (32, 64), (32, 32)), (2, 4), (2, 3, 4)))
REPLAYS = 15
# twice the L2 of any current GPU
EVICTING_BYTES = 256 << 20


class Shape(NamedTuple):
    """The sizes of one call; ``window`` of the cascade."""

    batch: int
    num_heads: int
    num_partial: int
    num_global: int
    num_keys: int
    window: int | None = None

    def __str__(self) -> str:
        kind = f"w {self.window}" if self.window else f"n_p {self.num_partial} n_g {self.num_global}"
        return f"B{self.batch} H{self.num_heads} D{HEAD_DIM} n {self.num_keys} {kind}"


PARTIAL_GLOBAL = (Shape(64, 16, 288, 16, 576), Shape(1, 16, 32768, 16, 65536))
CASCADED = (*(Shape(64, 16, 288, 0, 288, window) for window in (48, 144, 288)), Shape(1, 16, 32768, 0, 32768, 48))
# interpreted on a CPU: that everything runs
SMALL_PARTIAL_GLOBAL, SMALL_CASCADED = (Shape(1, 1, 10, 2, 20),), (Shape(1, 1, 20, 0, 20, 5),)

# microseconds of launches of one kernel, after the launches before it have run
Clock = Callable[[list[Launch], str], float]


def tune(file: Path, seconds: float | None = None, rehearse: bool = False) -> int:
    """Time the candidates of every flagship line, in order; FILE holds each line as soon as it is done.

    Args:
        seconds: stop after so many; what was not reached is said.
        rehearse: tiny shapes and two candidates a line, interpreted on the CPU.

    Returns:
        The exit status.
    """
    begin = time.perf_counter()
    device = torch.device("cpu" if rehearse else "cuda")
    found: list[dict[str, Any]] = []
    with ProcessPoolExecutor(1 if rehearse else os.cpu_count()) as pool:
        # the processes are forked by the first task: before CUDA is initialised, which no fork survives
        pool.submit(int).result()
        arch = launch_table.architecture(device)
        lines = [(kernel, candidates(kernel, arch)[: 2 if rehearse else None]) for kernel in KERNELS]
        futures = {entry: pool.submit(fault, entry, rehearse) for _, entries in lines for entry in entries}
        clock: Clock = interpreted_clock if rehearse else CudaClock(device)
        for _, entries in lines:
            left = None if seconds is None else seconds - (time.perf_counter() - begin)
            if left is not None and left <= 0:
                break
            found.append(time_line(entries, futures, clock, device, left, rehearse))
            write(file, device, found)
            print(shown(found[-1]), flush=True)
        pool.shutdown(wait=False, cancel_futures=True)
    if missed := [kernel for kernel, _ in lines[len(found) :]]:
        print(f"no time left for {', '.join(missed)}")
    print(f"{len(found)} of {len(lines)} lines in {time.perf_counter() - begin:.0f} s: {file.name}")
    return 0


def candidates(kernel: str, arch: str) -> list[Entry]:
    """The line that a flagship call uses now, then what else there is to try."""
    present = _present(kernel, arch)
    if kernel.startswith("cascaded"):
        others = [present._replace(block=m, block_n=n, num_warps=w, num_stages=s) for m, n, w, s in BANDS]
    else:
        others = [present._replace(block_n=n, num_warps=w, num_stages=s) for n, w, s in TILES]
    return list(dict.fromkeys([present, *others]))


def _present(kernel: str, arch: str) -> Entry:
    wanted = (kernel, arch, 8 * DTYPE.itemsize, HEAD_DIM, 1 if kernel.startswith("cascaded") else 2)
    return next(entry for entry in launch_table.entries() if entry[:5] == wanted)


def with_line(entry: Entry) -> tuple[Entry, ...]:
    """The table with this entry in the place of the line that it would replace."""
    return tuple(entry if line[:6] == entry[:6] else line for line in launch_table.entries())


def launches(kernel: str, shape: Shape, device: torch.device, arch: str) -> Iterator[Launch]:
    """The launches of the direction that the kernel belongs to, by the table of the moment."""
    # the interpreter knows no bf16
    dtype = torch.float16 if interpreting() else DTYPE

    def draw(tokens: int) -> torch.Tensor:
        tensor = torch.empty(shape.batch, shape.num_heads, tokens, HEAD_DIM, dtype=dtype, device=device)
        return tensor if tensor.is_meta else tensor.normal_()

    rows, scale = shape.num_partial + shape.num_global, HEAD_DIM**-0.5
    query, key, value, grad_out, out = draw(rows), draw(shape.num_keys), draw(shape.num_keys), draw(rows), draw(rows)
    lse = torch.zeros(query.shape[:3], device=device)
    grads = (torch.empty_like(query), torch.empty_like(key), torch.empty_like(value))
    if shape.window:
        band = (shape.window, shape.num_partial, "clamp", scale, arch)
        if kernel == "cascaded_forward":
            return cascaded.forward_launches(query, key, value, out, lse, *band)
        return cascaded.backward_launches(grad_out, None, query, key, value, out, lse, *grads, *band)
    if kernel == "partial_global_forward":
        return partial_global.forward_launches(query, key, value, None, out, lse, shape.num_partial, scale, arch)
    tensors = (grad_out, None, query, key, value, None, out, lse, *grads)
    return partial_global.backward_launches(*tensors, shape.num_partial, scale, arch)


def shapes(kernel: str, small: bool) -> tuple[Shape, ...]:
    """What a kernel's line is timed on."""
    if kernel.startswith("cascaded"):
        return SMALL_CASCADED if small else CASCADED
    return SMALL_PARTIAL_GLOBAL if small else PARTIAL_GLOBAL


def fault(entry: Entry, small: bool = False) -> str | None:
    """Why an entry cannot be used, after compiling what it launches, or None."""
    if interpreting():
        return None
    seen = set()
    with launch_table.using(with_line(entry)):
        for shape in shapes(entry.kernel, small):
            for launch in launches(entry.kernel, shape, torch.device("meta"), entry.arch):
                if launch.kernel.__name__ != entry.kernel or launch.variant in seen:
                    continue
                seen.add(launch.variant)
                try:
                    compiled = compile_launch(launch, entry.arch)
                except Exception as error:
                    return f"does not compile: {type(error).__name__}"
                if spills(compiled):
                    return "spills registers"
                if compiled.metadata.shared > TARGETS[entry.arch].shared_limit:
                    return "takes too much shared memory"
    return None


def time_line(
    entries: list[Entry],
    futures: dict[Entry, Future],
    clock: Clock,
    device: torch.device,
    seconds: float | None = None,
    small: bool = False,
) -> dict[str, Any]:
    """What became of every candidate of a line, and the fastest: the least product of its times over the shapes."""
    begin = time.perf_counter()
    kernel, tried = entries[0].kernel, []
    times: dict[Entry, list[float]] = {}
    for entry in entries:
        left = None if seconds is None else seconds - (time.perf_counter() - begin)
        try:
            # the present line is timed in any case: the others are compared with it
            reason = futures[entry].result(None if left is None or not times else max(0.0, left))
            if reason is None:
                times[entry] = [_time(entry, shape, clock, device) for shape in shapes(kernel, small)]
        except TimeoutError:
            reason = "no time left"
        except Exception as error:
            reason = f"does not run: {type(error).__name__}: {error}"
        tried.append({"line": list(entry), "median_us": times.get(entry), "fault": reason})
    best = min(times, key=lambda entry: _product(times[entry]), default=entries[0])
    return {
        "kernel": kernel,
        "shapes": [str(shape) for shape in shapes(kernel, small)],
        "present": list(entries[0]),
        "chosen": list(best),
        "candidates": tried,
    }


def _time(entry: Entry, shape: Shape, clock: Clock, device: torch.device) -> float:
    with launch_table.using(with_line(entry)):
        return clock(list(launches(entry.kernel, shape, device, entry.arch)), entry.kernel)


class CudaClock:
    """The median of replays of a CUDA graph, each with a cold and clean L2."""

    def __init__(self, device: torch.device):
        self.device = device
        self._clean = torch.ones(EVICTING_BYTES // 4, device=device)
        self._sum = torch.empty((), device=device)

    def __call__(self, planned: list[Launch], kernel: str) -> float:
        """Microseconds of the kernel's launches among the planned ones."""
        run(planned, self.device)
        timed = [launch for launch in planned if launch.kernel.__name__ == kernel]
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run(timed, self.device)
        pairs = []
        for _ in range(REPLAYS):
            # read, not written: dirty lines would be written back while the kernel is timed
            torch.sum(self._clean, dim=0, out=self._sum)
            pairs.append([torch.cuda.Event(enable_timing=True) for _ in range(2)])
            pairs[-1][0].record()
            graph.replay()
            pairs[-1][1].record()
        torch.cuda.synchronize(self.device)
        return statistics.median(start.elapsed_time(end) * 1e3 for start, end in pairs)


def interpreted_clock(planned: list[Launch], kernel: str) -> float:
    """Microseconds of the interpreter, which mean nothing."""
    begin = time.perf_counter()
    run(planned, torch.device("cpu"))
    return (time.perf_counter() - begin) * 1e6


def write(file: Path, device: torch.device, lines: list[dict[str, Any]]) -> None:
    """Write FILE whole."""
    about = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter",
        "triton": triton.__version__,
        "torch": torch.__version__,
    }
    aside = file.with_suffix(".writing")
    aside.write_text(json.dumps({**about, "lines": lines}, indent=1))
    aside.replace(file)


def shown(line: dict[str, Any]) -> str:
    """A line's candidates with their times, the chosen one marked."""
    rows = [f"{line['kernel']} on {', '.join(line['shapes'])}"]
    for tried in line["candidates"]:
        figures = tried["fault"] or " ".join(f"{value:9.1f}" for value in tried["median_us"]) + " us"
        rows.append(f"  {'*' if tried['line'] == line['chosen'] else ' '} {Entry(*tried['line'])[6:]}: {figures}")
    return "\n".join(rows)


def adopt(file: Path, passes: Callable[[Entry], bool]) -> int:
    """Put the fastest lines of FILE into the launch table, and write down on what they were measured.

    Args:
        passes: whether an entry compiles, as it should, for every call that its line is for; the timed ones are some of them.

    Returns:
        The exit status: 2 for a file that holds no measured line.
    """
    tuned = json.loads(file.read_text())
    if tuned["device"] == "interpreter" or not tuned["lines"]:
        print(f"{file} holds no measured line: its device is {tuned['device']}")
        return 2
    chosen = []
    for line in tuned["lines"]:
        times = {Entry(*tried["line"]): tried["median_us"] for tried in line["candidates"] if tried["median_us"]}
        for entry in sorted(times, key=lambda entry: _product(times[entry])):
            if passes(entry):
                chosen.append(entry)
                break
            print(f"{entry} is not for every call of its line")
    table = {entry[:6]: entry for entry in launch_table.entries()}
    table.update({entry[:6]: entry for entry in chosen})
    changed = [entry for entry in chosen if entry not in launch_table.entries()]
    launch_table.write(list(table.values()))
    measured_lines.add_measured([list(entry) for entry in chosen], f"{tuned['device']}, triton {tuned['triton']}")
    print(*changed, f"{len(chosen)} lines measured, {len(changed)} of them changed: {launch_table.TABLE}", sep="\n")
    return 0


def _product(times: list[float]) -> float:
    return sum(map(math.log, times))
