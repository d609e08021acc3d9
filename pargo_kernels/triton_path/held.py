"""Running launches at the least cost: what a call needs beside its tensors is worked out once and held.

A call is known by its sizes and strides, its dtype and device, and the alignment of its tensors. The first of a kind plans
its launches and compiles what no call before it has compiled; from then on addresses are filled in and kernels started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import triton
from triton import knobs
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from pargo_kernels.triton_path import launch_table
from pargo_kernels.triton_path.launch import Launch, Unused
from pargo_kernels.triton_path.tiles import Strided

# sizes come from users: past so many kinds of call all are forgotten, and planned again
MAX_KINDS = 4096

# compiled kernels by device and variant: a kernel is loaded on one device
_compiled: dict[tuple, Any] = {}


def forget() -> None:
    """Hold nothing: the next calls plan and compile again."""
    _compiled.clear()
    launch_table.forget()


class HeldLaunch(NamedTuple):
    """A compiled kernel and its arguments, but for addresses and the scale."""

    kernel: Any
    grid: tuple[int, ...]
    # (which tensor of the call, its strides where the kernel takes them beside the address)
    pointers: tuple[tuple[int, tuple], ...]
    scaled: bool
    rest: tuple


class Held(NamedTuple):
    """The launches of one kind of call, and the shapes of the fp32 buffers that they share."""

    launches: tuple[HeldLaunch, ...]
    buffers: tuple[torch.Size, ...]


class Calls:
    """One direction of one attention on tensors: ``plan(*inputs, *results, *settings, scale)`` gives its launches."""

    def __init__(self, plan: Callable[..., Iterable[Launch]]):
        self.plan = plan
        self.held: dict[tuple, Held] = {}
        launch_table.forgotten_with_the_table(self.held.clear)

    def __call__(self, query, key, inputs: tuple, results: tuple, settings: tuple, scale: float) -> None:
        """Run on the device of ``inputs``, of which ``query`` and ``key`` are two and None an absent one.

        ``results`` are new tensors, whose strides follow from those of the inputs.
        """
        device = query.device
        if query.is_cuda and torch.cuda.current_device() != device.index:
            with torch.cuda.device(device):
                self._run(device, query, key, inputs, results, settings, scale)
        else:
            self._run(device, query, key, inputs, results, settings, scale)

    def _run(self, device, query, key, inputs, results, settings, scale) -> None:
        pointers = [0 if t is None else t.data_ptr() for t in inputs]
        bits = 0
        for pointer in pointers:
            bits |= pointer
        kind = (
            settings,
            device,
            query.dtype,
            query.shape,
            key.shape,
            *([pointer & 15 for pointer in pointers] if bits & 15 else ()),
            *[None if t is None else t.stride() for t in inputs],
        )
        held = self.held.get(kind)
        if held is None:
            # an object of its own in each place: one tensor may be query, key and value, and in the next call it is not
            tensors = tuple([None if t is None else t.detach() for t in inputs + results])
            launches = tuple(self.plan(*tensors, *settings, scale))
            if _interpreted(launches):
                return
            if len(self.held) >= MAX_KINDS:
                self.held.clear()
            held = self.held[kind] = hold(launches, tensors, device)
        # the allocator keeps a buffer's memory for kernels of the same stream, also after it is freed here
        buffers = [torch.empty(shape, dtype=torch.float32, device=device) for shape in held.buffers]
        pointers += [t.data_ptr() for t in results]
        pointers += [t.data_ptr() for t in buffers]
        start(held.launches, pointers, scale, device)


def run(launches: Iterable[Launch], device: torch.device) -> None:
    """Run launches in order on ``device`` and its current stream, holding nothing of them but the kernels."""
    launches = tuple(launches)
    if _interpreted(launches):
        return
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    with torch.cuda.device(device if device.type == "cuda" else -1):
        for launch in launches:
            tensors = [base for base in map(_base, launch.args) if base is not None]
            scale = next((arg for arg in launch.args if isinstance(arg, float)), 0.0)
            start(hold((launch,), tensors, device).launches, [t.data_ptr() for t in tensors], scale, device)


def hold(launches: Sequence[Launch], tensors: Sequence[torch.Tensor | None], device: torch.device) -> Held:
    """Compile what is not compiled yet. Tensors of the launches that are not among ``tensors`` are buffers of the call."""
    places = {id(t): place for place, t in enumerate(tensors) if t is not None}
    buffers: list[torch.Size] = []
    held = []
    for launch in launches:
        pointers: list[tuple[int, tuple]] = []
        for arg in launch.args:
            if isinstance(arg, float | int):
                break
            base = _base(arg)
            if base is not None and id(base) not in places:
                places[id(base)] = len(tensors) + len(buffers)
                buffers.append(base.shape)
            # an unused pointer has no place: -1
            pointers.append((-1 if base is None else places[id(base)], arg[1:] if isinstance(arg, Strided) else ()))
        sizes = launch.args[len(pointers) :]
        scaled = bool(sizes) and isinstance(sizes[0], float)
        rest = (*sizes[scaled:], *launch.constants.values())
        held.append(HeldLaunch(compiled(launch, device), (*launch.grid, 1, 1)[:3], tuple(pointers), scaled, rest))
    return Held(tuple(held), tuple(buffers))


def compiled(launch: Launch, device: torch.device) -> Any:
    """The launch's kernel, loaded on ``device``, which must be the current one."""
    target = driver.active.get_current_target()
    variant = (device, launch.variant, target.backend == "hip" and launch.near)
    kernel = _compiled.get(variant)
    if kernel is None:
        kernel = triton.compile(launch.source(target.backend), target=target, options=launch.options)
        # loads it
        _ = kernel.run
        _compiled[variant] = kernel
    return kernel


def start(launches: Sequence[HeldLaunch], pointers: list[int], scale: float, device: torch.device) -> None:
    """Start kernels on the current stream of ``device``, the current one; ``pointers`` are the addresses of its tensors."""
    stream = driver.active.get_current_stream(device.index or 0)
    enter, leave = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    # where a profiler listens, Triton's own way to start a kernel tells it more; a hook is a chain of calls, or one
    watched = getattr(enter, "calls", enter) or getattr(leave, "calls", leave)
    pointers.append(0)
    for kernel, grid, places, scaled, rest in launches:
        args: list[Any] = [(pointers[place], *strides) if strides else pointers[place] for place, strides in places]
        if scaled:
            args.append(scale)
        if watched:
            kernel[grid](*args, *rest, stream=stream)
        else:
            kernel.run(*grid, stream, kernel.function, kernel.packed_metadata, None, None, None, *args, *rest)


def _interpreted(launches: Sequence[Launch]) -> bool:
    if isinstance(launches[0].kernel, JITFunction):
        return False
    for launch in launches:
        # an address all the same: the interpreter looks at every argument
        args = [torch.empty(1, dtype=arg.dtype) if isinstance(arg, Unused) else arg for arg in launch.args]
        launch.kernel[launch.grid](*args, **launch.constants)
    return True


def _base(arg) -> torch.Tensor | None:
    if isinstance(arg, Strided):
        return arg.base
    return arg if isinstance(arg, torch.Tensor) else None
