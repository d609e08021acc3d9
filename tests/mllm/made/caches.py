"""Caches of a test's own."""

import os
from pathlib import Path


def own_cache(folder):
    """What XDG_CACHE_HOME is to be for a cache in ``folder``; the compiled kernels in it are those of every cache."""
    shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pargo" / "kernels"
    shared.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = Path(folder) / "pargo"
    own.mkdir(parents=True, exist_ok=True)
    if not (own / "kernels").exists():
        (own / "kernels").symlink_to(shared.resolve(), target_is_directory=True)
    return str(folder)
