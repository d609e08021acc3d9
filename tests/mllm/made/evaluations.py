"""Every benchmark's miniature set, by name and in one place."""

from importlib import import_module

from pargo_cli.benchmarks import BENCHMARKS

_MODULES = tuple(f"benchmark_files_{kind}" for kind in ("yes_no", "choices", "texts", "judged"))


def write_set(name, folder, form="official"):
    """Write the miniature set of a benchmark; returns what to give as --data. Scenes are drawn: they have no files."""
    if name in ("scenes", "scenes_refer"):
        return "scenes:held_out=3"
    written = BENCHMARKS[name] if name.startswith("refcoco") else name
    folder.mkdir(parents=True, exist_ok=True)
    for module in (import_module(f"tests.mllm.made.{one}") for one in _MODULES):
        if hasattr(module, f"write_{written}"):
            return getattr(module, f"write_{written}")(folder, form)
    raise LookupError(f"{name} has no miniature set")
