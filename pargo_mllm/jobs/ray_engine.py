"""Pieces of work over the machines of a Ray cluster, by Ray Data."""

from __future__ import annotations

import logging
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm.auto import tqdm

from pargo_mllm.jobs.engine import JobError, usable_cores
from pargo_mllm.jobs.outcomes import Done, answered, named, outcome_in

T = TypeVar("T")
R = TypeVar("R")

# of a piece whose worker died: a machine may have gone, or its memory for a while
RETRIES = 3


class RayEngine:
    """See :class:`pargo_mllm.jobs.engine.Engine`.

    The cluster is the one that this process is connected to, or that ``RAY_ADDRESS`` names; without either a local one is
    started, which ends with the work. A piece whose worker died is begun again, :data:`RETRIES` times at most; one that
    raised ends the work at once, and those under way with it. No usage statistics are sent, and there is no dashboard.

    Args:
        processes: pieces at a time, one core each; None: as many as the cluster, or this process, has cores.

    Raises:
        JobError: where Ray is not installed.
    """

    def __init__(self, processes: int | None):
        # read when Ray is imported, and by every process that it starts; the second is of what it would print among the results
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
        try:
            import ray.data  # noqa: F401
        except ImportError as error:
            raise JobError(f"--engine ray needs Ray Data ({error}): pip install 'pargo[ray]'") from error
        self._processes = processes

    @property
    def workers(self) -> int:
        """See :class:`pargo_mllm.jobs.engine.Engine`."""
        import ray

        if self._processes:
            return self._processes
        if not ray.is_initialized() and not os.environ.get("RAY_ADDRESS"):
            return usable_cores()
        with self._cluster():
            return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def map(self, work: Callable[[T], R], pieces: Sequence[T], title: str | None = None) -> Iterator[R]:
        """See :class:`pargo_mllm.jobs.engine.Engine`."""
        import ray

        if not pieces:
            return
        bar = tqdm(total=len(pieces), desc=title, disable=title is None, unit="piece", dynamic_ncols=True)
        with bar, self._cluster(), _ended(self._rows(work, pieces)) as rows:
            for index, piece in enumerate(pieces):
                try:
                    row = next(rows, None)
                except (ray.exceptions.RayError, OSError) as error:
                    raise JobError(f"Ray failed: {error}. What was done is kept: run the same command again.") from error
                # Ray Data leaves out what it gave up
                if row is None or row["index"] != index:
                    raise JobError(
                        f"the worker died, again and again, that worked on {named(index, len(pieces), piece)}, perhaps for "
                        "want of memory. What was done is kept: run the same command again, with fewer --processes."
                    )
                outcome = outcome_in(row["answer"])
                bar.update()
                if isinstance(outcome, Done):
                    yield outcome.result
                else:
                    outcome.raise_for(named(index, len(pieces), piece))

    def _rows(self, work: Callable[[T], R], pieces: Sequence[T]) -> Iterator[dict[str, Any]]:
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        # a piece whose worker died is missed where its turn is, so that the error can name it
        context.max_errored_blocks = -1
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        here = os.getcwd()
        calls = [{"index": index, "folder": here, "call": pickle.dumps((work, piece))} for index, piece in enumerate(pieces)]
        one_a_task = ray.data.from_items(calls, override_num_blocks=len(calls))
        workers = min(self.workers, len(calls))
        with warnings.catch_warnings():
            # Ray 2.64 will limit tries in another way, which those before it do not have
            warnings.simplefilter("ignore", DeprecationWarning)
            done = one_a_task.map(_row, num_cpus=1, concurrency=workers, ray_remote_args_fn=_remote)
        return iter(done.iter_rows())

    @contextmanager
    def _cluster(self) -> Iterator[None]:
        """Connected to a cluster; what was begun for it is ended."""
        import ray

        if ray.is_initialized():
            yield
            return
        address = os.environ.get("RAY_ADDRESS")
        local = {} if address else {"num_cpus": self._processes or usable_cores(), "include_dashboard": False}
        try:
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f"RAY_ADDRESS={address} cannot be reached" if address else "Ray could not be started here"
            raise JobError(f"{where}: {error}") from error
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _ended(rows: Iterator[dict[str, Any]]) -> Iterator[Iterator[dict[str, Any]]]:
    """Rows of Ray Data, which is at rest when the block ends: a thread of it that speaks to a cluster which has gone kills the
    process.
    """
    before = {*threading.enumerate()}
    try:
        yield rows
    finally:
        rows.close()  # type: ignore[attr-defined]
        for thread in {*threading.enumerate()} - before:
            if type(thread).__name__ == "StreamingExecutor":
                thread.join()


def _remote() -> dict[str, Any]:
    return {"max_retries": RETRIES}


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """Runs in a worker of Ray, from the folder from which the command was given, where there is one."""
    if os.path.isdir(row["folder"]):
        os.chdir(row["folder"])
    return {"index": row["index"], "answer": answered(row["call"])}
