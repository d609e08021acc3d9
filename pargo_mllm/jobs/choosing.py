"""Which engines there are."""

from __future__ import annotations

from pargo_mllm.jobs.engine import Engine, JobError, usable_cores
from pargo_mllm.jobs.local import LocalEngine

ENGINES = ("local", "ray")


def engine_of(name: str, processes: int | None = None) -> Engine:
    """The engine of a name.

    Args:
        name: of :data:`ENGINES`.
        processes: pieces at a time; None: as many as this process may use cores, or as the cluster has.

    Raises:
        JobError: if it cannot be used here; the message says what is missing.
    """
    if name == "local":
        return LocalEngine(processes or usable_cores())
    if name == "ray":
        from pargo_mllm.jobs.ray_engine import RayEngine

        return RayEngine(processes)
    raise JobError(f"there is no engine {name!r}, only {', '.join(ENGINES)}.")
