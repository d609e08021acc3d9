"""The order in which stage 0 learns its lessons: the trainer's, over a dataset that fits into memory."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from pargo_mllm.data.feeding.order import SampleOrder
from pargo_mllm.training.trainer.settings import StageSettings


class _InOrder(Dataset):
    def __init__(self, lessons: Any, settings: StageSettings):
        self.lessons, self.length = lessons, settings.steps * settings.batch_size
        self.order = SampleOrder([[len(lessons)]], None, settings.seed)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int):
        return self.lessons[self.order[position][1]]


def in_order(lessons: Any, settings: StageSettings) -> Dataset:
    """Item p is the lesson that is learned at position p: all of them in a new order every epoch, so that batches are full."""
    return _InOrder(lessons, settings)
