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
        return _inspect_cubin(compiled.asm["cubin"], compiled.metadata.shared)
    return _inspect_amdgcn(compiled.asm["amdgcn"], compiled.metadata.shared)


def _inspect_cubin(cubin: bytes, shared: int) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _tool("cuobjdump", "-res-usage", str(path))
        sass = _tool("nvdisasm", "-c", str(path))
    registers = int(re.search(r"REG:(\d+)", usage).group(1))
    stack = int(re.search(r"STACK:(\d+)", usage).group(1))
    # a spill shows as stack or as local loads and stores
    local = len(re.findall(r"\b(?:LDL|STL)\b", sass))
    # LDGSTS copies global to shared memory without a register
    accesses = re.findall(r"\b(?:LDG|STG|LDGSTS)\.[\w.]+", sass)
    return Cost(
        registers=registers,
        spilled_bytes=max(stack, 4 * local),
        shared_bytes=shared,
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
        spilled_bytes=4 * (meta("vgpr_spill_count") + meta("sgpr_spill_count")),
        shared_bytes=shared,
        matrix_instructions=len(re.findall(r"\bv_mfma_\w+", text)),
        global_accesses=len(accesses),
        wide_accesses=sum("dwordx4" in access for access in accesses),
    )


def _tool(name: str, *arguments: str) -> str:
    import triton.backends.nvidia

    program = Path(triton.backends.nvidia.__file__).parent / "bin" / name
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout
