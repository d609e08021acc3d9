"""Clocks, memory meters and interleaved rounds, on a CPU or a CUDA device."""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

Key = TypeVar("Key")
# a step runs one direction of one provider and calls its argument after each part (forward, then backward)
Step = Callable[[Callable[[], None]], Any]

# one turn of a provider in a round: at most so many calls, at most about so long
TURN_CALLS, TURN_SECONDS = 5, 0.2
MIN_ROUNDS, MAX_ROUNDS = 3, 30
# twice the L2 of any current GPU: read before each call, so that no call finds its inputs in the cache
EVICTING_BYTES = 256 << 20
COPIED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 28}


@dataclass
class Samples:
    """Seconds of each call, one list for each part of the step: ``parts[0]`` the first part, ``parts[1]`` the second."""

    parts: list[list[float]] = field(default_factory=list)
    rounds: int = 0

    def add(self, marks: list[float]) -> None:
        """Take the times of one call, counted from its start to the end of each part."""
        lengths = [end - begin for begin, end in zip([0.0, *marks], marks, strict=False)]
        self.parts = self.parts or [[] for _ in lengths]
        for part, seconds in zip(self.parts, lengths, strict=True):
            part.append(seconds)

    @property
    def whole(self) -> list[float]:
        """Seconds of each whole call."""
        return [sum(call) for call in zip(*self.parts, strict=True)]


def quantiles(seconds: list[float]) -> tuple[float, float, float]:
    """20 % quantile, median, 80 % quantile."""
    values = torch.tensor(seconds, dtype=torch.float64)
    low, middle, high = torch.quantile(values, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()
    return low, middle, high


class CpuMeter:
    """Wall-clock times and resident memory of this process."""

    def __init__(self) -> None:
        self.why_no_memory = None
        try:
            self._libc = ctypes.CDLL("libc.so.6")
            self._reset_peak()
        except OSError as error:
            self.why_no_memory = f"the peak of resident memory cannot be reset here ({error}); Linux can"

    def call(self, step: Step) -> list[float]:
        """Run the step once: seconds from its start to the end of each part."""
        marks: list[float] = []
        begin = time.perf_counter()
        step(lambda: marks.append(time.perf_counter() - begin))
        return marks

    def held(self) -> int:
        """Bytes in use now."""
        if self.why_no_memory:
            return 0
        # freed pages go back to the system, so that they count when they are taken again
        self._libc.malloc_trim(0)
        import psutil

        return psutil.Process().memory_info().rss

    def peak(self, step: Step) -> tuple[Any, int | None]:
        """Run the step once: its result, and the most bytes in use at once above those before it, where that can be told."""
        before = self.held()
        if not self.why_no_memory:
            self._reset_peak()
        result = step(lambda: None)
        return result, None if self.why_no_memory else self._peak_resident() - before

    def available_bytes(self) -> int:
        """Memory that a call may take."""
        import psutil

        return psutil.virtual_memory().available

    def synchronize(self) -> None:
        """Nothing to wait for."""

    @staticmethod
    def _reset_peak() -> None:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")

    @staticmethod
    def _peak_resident() -> int:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class Replay:
    """A step as a CUDA graph: each call replays it as one part."""

    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self.graph = graph

    def __call__(self, mark: Callable[[], None]) -> None:
        self.graph.replay()
        mark()


class CudaMeter:
    """Device events and the caching allocator. Each call starts with a cold, clean L2.

    An eager step starts on an idle device, and its launches are part of its time; a :class:`Replay` is queued behind the
    eviction, so that its time is the kernels' alone.
    """

    why_no_memory = None

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._clean = torch.ones(EVICTING_BYTES // 4, device=device)
        self._sum = torch.empty((), device=device)

    def evict(self) -> None:
        """Empty the L2 of what calls can use, and of what it has still to write.

        By reading: a buffer that is written leaves dirty lines, which the device would write back while the call is timed.
        Reading writes those of the call before back now.
        """
        torch.sum(self._clean, dim=0, out=self._sum)

    def call(self, step: Step) -> list[float]:
        """Run the step once: seconds from its start to the end of each part."""
        events = [torch.cuda.Event(enable_timing=True)]
        torch.cuda.synchronize(self.device)
        self.evict()
        if not isinstance(step, Replay):
            torch.cuda.synchronize(self.device)
        events[0].record()

        def mark() -> None:
            events.append(torch.cuda.Event(enable_timing=True))
            events[-1].record()

        step(mark)
        torch.cuda.synchronize(self.device)
        return [events[0].elapsed_time(event) * 1e-3 for event in events[1:]]

    def held(self) -> int:
        """Bytes in use now."""
        return torch.cuda.memory_allocated(self.device)

    def peak(self, step: Step) -> tuple[Any, int]:
        """Run the step once: its result, and the most bytes allocated at once above those before it."""
        before = self.held()
        torch.cuda.reset_peak_memory_stats(self.device)
        result = step(lambda: None)
        torch.cuda.synchronize(self.device)
        return result, torch.cuda.max_memory_allocated(self.device) - before

    def available_bytes(self) -> int:
        """Memory that a call may take."""
        return torch.cuda.mem_get_info(self.device)[0]

    def synchronize(self) -> None:
        """Wait for the device; errors of earlier launches surface here."""
        torch.cuda.synchronize(self.device)


Meter = CpuMeter | CudaMeter


def meter_for(device: torch.device) -> Meter:
    """The meter of a device."""
    return CudaMeter(device) if device.type == "cuda" else CpuMeter()


def caveats(threads: int, meter: Meter) -> list[str]:
    """What keeps measurements on this machine from being good, a line each."""
    lines = []
    load = os.getloadavg()[0]
    if load > threads / 2:
        lines.append(f"the load average is {load:.1f}: other programs are at work, and times will be noisy")
    if meter.why_no_memory:
        lines.append(f"peak memory is left out: {meter.why_no_memory}")
    return lines


def captured(step: Step) -> tuple[Replay, Any]:
    """The step as a CUDA graph, and what the captured call returned (each replay rewrites it)."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(lambda: None)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step(lambda: None)
    return Replay(graph), result


def interleaved(
    steps: dict[Key, Step], usual: dict[Key, float], meter: Meter, seconds: float, turn_calls: int = TURN_CALLS
) -> tuple[dict[Key, Samples], dict[Key, Exception]]:
    """Time all steps in turn, round by round, so that a drift of the machine hits all alike.

    ``usual`` says about how many seconds a call takes; as many rounds are run as fit into ``seconds`` (at least
    ``MIN_ROUNDS``), with at most ``turn_calls`` calls of a step in each. The order rotates from round to round. A step that
    raises is dropped and its error returned.
    """
    calls = {key: max(1, min(turn_calls, int(TURN_SECONDS / usual[key]))) for key in steps}
    round_seconds = sum(calls[key] * usual[key] for key in steps)
    rounds = max(MIN_ROUNDS, min(MAX_ROUNDS, int(seconds / max(round_seconds, 1e-9))))
    samples = {key: Samples() for key in steps}
    failures: dict[Key, Exception] = {}
    for turn in range(rounds):
        order = list(samples)
        start = turn % max(1, len(order))
        for key in order[start:] + order[:start]:
            try:
                for _ in range(calls[key]):
                    samples[key].add(meter.call(steps[key]))
            except Exception as error:
                # the frames of its traceback would keep the tensors of the step that failed
                failures[key] = error.with_traceback(None)
                del samples[key]
                continue
            samples[key].rounds = turn + 1
    return samples, failures


def copy_bandwidth(device: torch.device, meter: Meter) -> float:
    """Bytes per second of a large copy on the device, read and written bytes counted."""
    source = torch.empty(COPIED_BYTES[device.type], dtype=torch.int8, device=device).fill_(1)
    target = torch.empty_like(source)
    return 2 * source.numel() / _median_seconds(lambda: target.copy_(source), meter)


def matmul_rate(device: torch.device, dtype: torch.dtype, meter: Meter) -> float:
    """Floating-point operations per second of a large matrix product: the yardstick for what dense attention would take."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _median_seconds(lambda: left @ right, meter)


def _median_seconds(work: Callable[[], object], meter: Meter) -> float:
    def step(mark: Callable[[], None]) -> None:
        work()
        mark()

    return statistics.median([meter.call(step)[0] for _ in range(6)][1:])
