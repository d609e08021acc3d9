"""The frozen encoder runs once: its features of every picture, exactly what it would give in the training step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from pargo_mllm.data.samples import Sample
from pargo_mllm.modeling import ParGoModel


@dataclass(frozen=True)
class EncodedSamples:
    """Samples whose pictures could be read, their features fp32 ``[N, n_v, c]``, and why the others could not."""

    samples: list[Sample]
    features: torch.Tensor
    skipped: dict[str, str]


@torch.no_grad()
def encode_samples(
    model: ParGoModel,
    image_processor,
    samples: list[Sample],
    batch_size: int = 64,
    title: str = "encoding pictures",
    position: int = 0,
) -> EncodedSamples:
    """Run the model's vision encoder over all pictures. A picture that cannot be read is skipped and named."""
    readable: list[Sample] = []
    batches: list[torch.Tensor] = []
    skipped: dict[str, str] = {}
    with tqdm(total=len(samples), desc=title, position=position, unit="picture", dynamic_ncols=True) as bar:
        for first in range(0, len(samples), batch_size):
            pictures = []
            for sample in samples[first : first + batch_size]:
                try:
                    pictures.append(sample.load())
                    readable.append(sample)
                except (OSError, ValueError) as error:
                    skipped[sample.name] = str(error)
                bar.update(1)
            if pictures:
                pixels = image_processor(pictures, return_tensors="pt")["pixel_values"].to(model.device)
                batches.append(model.get_vision_features(pixels).cpu())
    return EncodedSamples(readable, torch.cat(batches) if batches else torch.empty(0), skipped)
