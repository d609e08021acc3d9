"""Datasets and the collator that feed a ParGo model with packed conversations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import Dataset

from pargo_mllm.data.feeding.conversations import ConversationEncoder, EncodedConversation
from pargo_mllm.data.feeding.packing import PackedSequence, pack, pad_packed
from pargo_mllm.data.questions import Question, Sample

ImageInputs = Callable[[int], dict[str, torch.Tensor]]


class PackedDataset(Dataset):
    """One item a picture: all its conversations packed behind it.

    Args:
        conversations: for each picture what is said about it, encoded.
        image_inputs: ``image_inputs(i)`` gives the model's input for picture ``i``: ``{"pixel_values": [3, s, s]}``, or
            ``{"vision_features": [n_v, c]}`` where a frozen encoder has run already.
        image_token_id: the placeholder.
    """

    def __init__(self, conversations: list[list[EncodedConversation]], image_inputs: ImageInputs, image_token_id: int):
        self.rows = [pack(about_one, image_token_id) for about_one in conversations]
        self.image_inputs = image_inputs

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"packed": self.rows[index], **self.image_inputs(index)}


class PackedCollator:
    """Stacks items of a :class:`PackedDataset` into the model's keyword arguments."""

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad the packed rows and stack everything else."""
        rows: list[PackedSequence] = [item["packed"] for item in items]
        batch = pad_packed(rows, self.pad_token_id)
        for name in items[0]:
            if name != "packed":
                batch[name] = torch.stack([item[name] for item in items])
        return batch


def cached_features(features: torch.Tensor) -> ImageInputs:
    """Image inputs from the encoder's features ``[N, n_v, c]`` of every picture."""
    return lambda index: {"vision_features": features[index]}


def about_pictures(processor, samples: list[Sample], what: str, image_inputs: ImageInputs) -> tuple[PackedDataset, list[int]]:
    """``what`` is said about pictures ("captions" or "questions"), packed by picture.

    Args:
        image_inputs: of ``samples``, by their index.

    Returns:
        The dataset, and the index in ``samples`` of each of its items. Pictures about which nothing is said are left out.
    """
    said: dict[int, tuple[Question, ...]] = {
        index: getattr(sample, what) for index, sample in enumerate(samples) if getattr(sample, what)
    }
    encoded = ConversationEncoder(processor).encode_questions(list(said.values()))
    dataset = PackedDataset(encoded, lambda row: image_inputs(kept[row]), processor.image_token_id)
    kept = list(said)
    return dataset, kept
