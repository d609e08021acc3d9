"""What is mutated, and the tests that must see it."""

from __future__ import annotations

from typing import NamedTuple

KERNELS = "tests/kernels"
PRELOAD = ("torch", "numpy", "pytest", "hypothesis")


class Target(NamedTuple):
    """Files of the package, and how their tests are run."""

    files: tuple[str, ...]
    # pytest's: the tests that see most, and are done soonest, first
    arguments: tuple[str, ...]
    environment: dict[str, str]
    # what the tests import anyway and holds no mutant
    preload: tuple[str, ...] = PRELOAD


def _plain(*files: str, tests: tuple[str, ...]) -> Target:
    return Target(tuple(f"pargo_kernels/{file}" for file in files), tests, {})


def _interpreted(file: str, *tests: str) -> Target:
    file = f"pargo_kernels/triton_path/{file}"
    return Target((file,), tests, {"TRITON_INTERPRET": "1"}, (*PRELOAD, "triton", "triton.language"))


def _corners(backend: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{KERNELS}/test_accuracy.py::test_corner[{backend}-float32-{name}]" for name in names)


SMALL = ("one key a row", "no partial rows", "no global rows", "a group of eight heads")
TARGETS = {
    "intervals": _plain("intervals.py", tests=(f"{KERNELS}/test_intervals.py",)),
    "torch_path": _plain(
        "torch_path/softmax.py",
        "torch_path/head_blocks.py",
        "torch_path/partial_global.py",
        "torch_path/cascaded.py",
        tests=(
            f"{KERNELS}/test_blind_rows.py",
            f"{KERNELS}/test_accuracy.py",
            f"{KERNELS}/test_threads.py",
            *("-k", "not torch-cuda and not triton and not c-cpu", "-m", "not long"),
        ),
    ),
    "merge": _plain("merge.py", tests=(f"{KERNELS}/test_merge.py",)),
    "checks": _plain("checks.py", "settings.py", tests=(f"{KERNELS}/test_settings.py", f"{KERNELS}/test_errors.py")),
    "chunks": _interpreted(
        "chunks.py",
        f"{KERNELS}/test_chunks.py",
        *_corners("triton-interpreted", *SMALL, "long unequal slices", "packed, several chunks"),
    ),
    "band": _interpreted("band.py", f"{KERNELS}/test_band.py"),
    "tiles": _interpreted(
        "tiles.py",
        f"{KERNELS}/test_held.py::test_rows_are_moved_in_the_widest_units_that_suit_all",
        f"{KERNELS}/test_blind_rows.py",
        *_corners("triton-interpreted", "a head dimension of 1", *SMALL, "a head dimension that is not a power of two"),
        f"{KERNELS}/test_kernels.py::test_strides_change_no_bit_where_rows_are_moved_alike",
    ),
    "merge_chunks": _interpreted("merge_chunks.py", f"{KERNELS}/test_chunks.py", "-k", "merged"),
    "c_path": _plain(
        *(
            f"c_path/{name}"
            for name in ("call.h", "cascaded.c", "parallel.c", "partial_global.c", "products.h", "rows.h", "vectors.h")
        ),
        tests=(
            # skipped is not seen: this one fails where nothing was compiled
            f"{KERNELS}/test_c_library.py",
            f"{KERNELS}/test_blind_rows.py",
            f"{KERNELS}/test_accuracy.py",
            f"{KERNELS}/test_threads.py",
            f"{KERNELS}/test_c_kernels.py",
            *("-k", "c-cpu or auto_is_the_c_path or that_the_compiler_knows or test_c_kernels", "-m", "not long"),
        ),
    ),
}
