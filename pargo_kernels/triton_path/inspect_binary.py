"""What a compiled kernel costs: registers, spills, shared memory, instruction mix. Reads cubins and amdgcn, needs no GPU."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """Figures of one compiled kernel."""

    registers: int
    spilled_bytes: int
    shared_bytes: int
    matrix_instructions: int
    # global loads and stores, and those of 16 bytes a thread
    global_accesses: int
    wide_accesses: int


def inspect_binary(compiled) -> Cost:
    """Cost of a ``triton.compiler.CompiledKernel``."""
    if "cubin" in compiled.asm:
        return _inspect_cubin(compiled)
    return _inspect_amdgcn(compiled.asm["amdgcn"], compiled.metadata.shared)


def spills(compiled) -> bool:
    """Whether a ``triton.compiler.CompiledKernel`` keeps registers in memory; quicker than :func:`inspect_binary`."""
    if "cubin" in compiled.asm:
        return _resources(compiled.asm["cubin"])[1] > 0
    return _inspect_amdgcn(compiled.asm["amdgcn"], 0).spilled_bytes > 0


def _resources(cubin: bytes) -> tuple[int, int]:
    # registers and bytes of stack
    usage = _tool("cuobjdump", cubin, "-res-usage")
    (registers,) = re.findall(r"REG:(\d+)", usage)
    (stack,) = re.findall(r"STACK:(\d+)", usage)
    return int(registers), int(stack)


def _inspect_cubin(compiled) -> Cost:
    cubin = compiled.asm["cubin"]
    registers, stack = _resources(cubin)
    sass = _tool("nvdisasm", cubin, "-c")
    # a spill shows as stack and as local loads and stores
    local = len(re.findall(r"\b(?:LDL|STL)\b", sass))
    # LDGSTS copies global to shared memory without a register
    accesses = re.findall(r"\b(?:LDG|STG|LDGSTS)\.[\w.]+", sass)
    return Cost(
        registers=registers,
        spilled_bytes=max(stack, 4 * local),
        shared_bytes=compiled.metadata.shared,
        matrix_instructions=len(re.findall(r"\b(?:HMMA|HGMMA|WGMMA|DMMA|UTCHMMA|UTCQMMA)\b", sass)),
        global_accesses=len(accesses),
        wide_accesses=sum(".128" in access for access in accesses),
    )


def _inspect_amdgcn(text: str, shared: int) -> Cost:
    def meta(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        return int(found.group(1)) if found else 0

    accesses = re.findall(r"\b(?:global|buffer)_(?:load|store)_\w+", text)
    return Cost(
        registers=meta("vgpr_count"),
        # scalars that are kept in lanes of vector registers never reach memory
        spilled_bytes=max(meta("private_segment_fixed_size"), 4 * meta("vgpr_spill_count")),
        shared_bytes=shared,
        matrix_instructions=len(re.findall(r"\bv_mfma_\w+", text)),
        global_accesses=len(accesses),
        wide_accesses=sum("dwordx4" in access for access in accesses),
    )


def _tool(name: str, cubin: bytes, *options: str) -> str:
    import triton.backends.nvidia

    program = Path(triton.backends.nvidia.__file__).parent / "bin" / name
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        return subprocess.run([program, *options, str(path)], capture_output=True, text=True, check=True).stdout
