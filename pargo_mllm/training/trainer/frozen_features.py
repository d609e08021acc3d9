"""The frozen encoder runs once: its features of every picture, exactly what it would give in the training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from pargo_mllm.data.questions import Sample
from pargo_mllm.modeling import ParGoModel
from pargo_mllm.training.trainer.processes import is_first_process


@dataclass(frozen=True)
class EncodedSamples:
    """Features of the pictures that could be read.

    ``features`` are fp32 ``[len(kept), n_v, c]``, ``kept`` the indices of their samples; ``skipped`` says by name why the
    others could not be read.
    """

    features: torch.Tensor
    kept: list[int]
    skipped: dict[str, str]


def frozen_features(model: ParGoModel, pixels: torch.Tensor, bf16: bool) -> torch.Tensor:
    """What the frozen encoder gives for pixels ``[images, 3, s, s]``: ``[images, n_v, c]``, without gradient.

    Args:
        bf16: under autocast, as training runs.
    """
    device = model.device
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        features = model.get_vision_features(pixels.to(device, model.vision_tower.dtype))
    # a tensor of inference mode cannot be kept for a backward pass
    return features.clone()


def encode_samples(
    model: ParGoModel,
    image_processor,
    samples: list[Sample],
    batch_size: int = 64,
    title: str = "encoding pictures",
    position: int = 0,
) -> EncodedSamples:
    """Run the model's vision encoder over all pictures. A picture that cannot be read is skipped and named."""

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        return frozen_features(model, pixels, bf16=False).cpu()

    return EncodedSamples(*read_pixels(image_processor, samples, batch_size, title, position, encode))


def read_pixels(
    image_processor,
    samples: list[Sample],
    batch_size: int = 64,
    title: str = "reading pictures",
    position: int = 0,
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[torch.Tensor, list[int], dict[str, str]]:
    """Pixels of all pictures, or what ``transform`` makes of them batch by batch.

    Returns:
        ``[N, 3, s, s]`` (or the transformed) on the CPU, the indices of the N samples that could be read, and why the
        others could not, by name.
    """
    kept: list[int] = []
    batches: list[torch.Tensor] = []
    skipped: dict[str, str] = {}
    shown = {"position": position, "unit": "picture", "dynamic_ncols": True, "disable": not is_first_process()}
    with tqdm(total=len(samples), desc=title, **shown) as bar:
        for first in range(0, len(samples), batch_size):
            pictures = []
            for index in range(first, min(first + batch_size, len(samples))):
                try:
                    pictures.append(samples[index].load())
                    kept.append(index)
                except (OSError, ValueError) as error:
                    skipped[samples[index].name] = str(error)
                bar.update(1)
            if pictures:
                pixels = image_processor(pictures, return_tensors="pt")["pixel_values"]
                batches.append(pixels if transform is None else transform(pixels))
    return torch.cat(batches) if batches else torch.empty(0), kept, skipped
