"""Pieces of work on a Ray cluster."""

from __future__ import annotations

from pargo_mllm.jobs.engine import JobError


class RayEngine:
    """See :class:`pargo_mllm.jobs.engine.Engine`."""

    def __init__(self, processes: int | None):
        raise JobError("--engine ray needs Ray: pip install 'pargo[ray]'")
