"""Where a run's log goes besides the screen."""

from __future__ import annotations

from pathlib import Path

from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks


class TrackerError(ValueError):
    """A tracker that cannot be used; the message says why."""


def trackers(name: str, folder: Path, arguments: TrainingArguments) -> list[TrainerCallback]:
    """transformers' callback for a tracker, "tensorboard" or another one that it knows; none for "none".

    Args:
        folder: where TensorBoard's files go; its writer goes on where an interrupted run stopped.

    Raises:
        TrackerError: for a tracker that is unknown or not installed.
    """
    if name == "none":
        return []
    try:
        (callback,) = get_reporting_integration_callbacks([name])
        if name != "tensorboard":
            return [callback()]
        from torch.utils.tensorboard import SummaryWriter
    except (ImportError, ValueError, RuntimeError) as error:
        raise TrackerError(f"report_to={name!r} cannot be used: {error}; install it, or give 'none'.") from error
    return [callback(SummaryWriter(str(folder)) if arguments.should_save else None)]
