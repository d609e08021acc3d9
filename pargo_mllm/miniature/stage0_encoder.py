"""Stage 0a: a miniature vision encoder learns what is in each patch.

There is no pretrained encoder in a miniature that starts from nothing, and a frozen random one proves nothing. So the encoder
is trained first, openly, on patch labels: what stands in a patch and its colour. Its pictures are none of those that are
evaluated.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from pargo_mllm.data.pictures import PictureError
from pargo_mllm.data.questions import QuestionCorpus
from pargo_mllm.miniature.order import in_order
from pargo_mllm.training.trainer.settings import StageSettings
from pargo_mllm.training.trainer.stage_trainer import Stage, train

NO_LABEL = -100


class PatchLabeller(nn.Module):
    """A vision encoder with linear heads on its patch features. Only the encoder is kept afterwards.

    Args:
        encoder: a vision model of transformers; class tokens in front of the patches are skipped.
        num_labels: the number of classes of each label.
    """

    def __init__(self, encoder: PreTrainedModel, num_labels: list[int]):
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleList(nn.Linear(encoder.config.hidden_size, count) for count in num_labels)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Mean cross-entropy.

        Args:
            pixel_values: ``[B, 3, s, s]``.
            labels: int64 ``[B, n_v, number of heads]``; :data:`NO_LABEL` counts nothing.
        """
        features = self.encoder(pixel_values).last_hidden_state[:, -labels.shape[1] :]
        losses = [
            nn.functional.cross_entropy(
                head(features).flatten(0, 1).float(), labels[..., index].flatten(), ignore_index=NO_LABEL
            )
            for index, head in enumerate(self.heads)
        ]
        return {"loss": torch.stack(losses).sum()}


class PatchLabelDataset(Dataset):
    """Pictures as pixels ``[N, 3, s, s]`` with labels ``[N, n_v, heads]``."""

    def __init__(self, pixel_values: torch.Tensor, labels: torch.Tensor):
        self.pixel_values = pixel_values
        self.labels = labels

    def __len__(self) -> int:
        return len(self.pixel_values)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pixel_values[index], "labels": self.labels[index]}


def train_encoder(
    encoder: PreTrainedModel,
    dataset: PatchLabelDataset,
    num_labels: list[int],
    settings: StageSettings,
    folder: Path,
    position: int = 0,
) -> list[dict[str, float]]:
    """Stage 0a: train ``encoder`` in place. Returns the log of the loss."""
    torch.manual_seed(settings.seed)
    model = PatchLabeller(encoder, num_labels)
    shown = in_order(dataset, settings)
    return train(model, Stage(shown, _collate, settings, folder, "stage 0a: the encoder learns patches", position))


def read_pixels(image_processor, pictures: QuestionCorpus, position: int = 0) -> tuple[torch.Tensor, list[int]]:
    """Pixels ``[N, 3, s, s]`` of the pictures that can be read, and which they are.

    Raises:
        PictureError: if none can be read.
    """
    kept, pixels, fault = [], [], None
    for index in tqdm(range(len(pictures)), "stage 0a: pictures", position=position, unit="picture", dynamic_ncols=True):
        try:
            picture = pictures.picture(index)
        except (PictureError, OSError) as error:
            fault = fault or error
            continue
        kept.append(index)
        pixels.append(image_processor([picture], return_tensors="pt")["pixel_values"])
    if not kept:
        raise PictureError(f"none of the {len(pictures)} train pictures can be read; the first: {fault}")
    return torch.cat(pixels), kept


def _collate(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}
