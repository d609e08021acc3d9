"""Where a run's log goes besides the screen."""

from __future__ import annotations

from pathlib import Path

from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import get_available_reporting_integrations, get_reporting_integration_callbacks

from pargo_mllm.errors import UserError

# where TensorBoard's files go, beside the checkpoints and at last in the finished folder
LOGS = "logs"


class TrackerError(UserError):
    """A tracker that cannot be used; the message says why."""


def check_tracker(name: str) -> None:
    """Raises TrackerError for a tracker that is unknown or not installed."""
    here = ("none", *get_available_reporting_integrations())
    if name not in here:
        raise TrackerError(f"report_to={name!r} is unknown or not installed; install it, or give one of {', '.join(here)}.")


def trackers(name: str, folder: Path, arguments: TrainingArguments) -> list[TrainerCallback]:
    """transformers' callback for a tracker, "tensorboard" or another one that it knows; none for "none".

    Args:
        folder: where TensorBoard's files go; its writer goes on where an interrupted run stopped.

    Raises:
        TrackerError: as :func:`check_tracker`.
    """
    check_tracker(name)
    if name == "none":
        return []
    (callback,) = get_reporting_integration_callbacks([name])
    if name != "tensorboard":
        return [callback()]
    from torch.utils.tensorboard import SummaryWriter

    return [callback(SummaryWriter(str(folder)) if arguments.should_save else None)]
