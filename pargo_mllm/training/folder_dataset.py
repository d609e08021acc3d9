"""What a stage trains on: captions of, or questions about, the photographs of a COCO-style folder."""

from __future__ import annotations

from collections.abc import Callable

from pargo_mllm.data.datasets import PackedDataset, about_pictures, cached_features, pixels_when_needed
from pargo_mllm.data.folder_source import FolderSource
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.data.samples import Sample
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.training.features import encode_samples, read_pixels
from pargo_mllm.training.recipes import Recipe, RecipeError

EVERY_PHOTOGRAPH = 2**31


def open_source(recipe: Recipe) -> FolderSource:
    """The photographs of ``recipe.data``."""
    return FolderSource(recipe.data, EVERY_PHOTOGRAPH, recipe.views, seed=recipe.seed)  # type: ignore[arg-type]


def build_dataset(
    recipe: Recipe,
    samples: list[Sample],
    model: ParGoForConditionalGeneration,
    processor: ParGoProcessor,
    say: Callable[[str], None],
) -> PackedDataset:
    """Captions or questions about the pictures that can be read."""
    if recipe.cache_features:
        encoded = encode_samples(model.model, processor.image_processor, samples)
        kept, skipped, inputs = encoded.kept, encoded.skipped, cached_features(encoded.features)
        samples = [samples[index] for index in kept]
    else:
        # every picture is opened once, so that a damaged one does not end a week of training; its pixels are not kept
        _, kept, skipped = read_pixels(
            processor.image_processor, samples, 16, "checking pictures", transform=lambda pixels: pixels[:, :0, :0, :0]
        )
        samples = [samples[index] for index in kept]
        inputs = pixels_when_needed(processor.image_processor, samples)
    for name, problem in skipped.items():
        say(f"skipped {name}: {problem}")
    if not samples:
        raise PictureError(f"none of the {len(skipped)} pictures of {recipe.data} can be read.")
    what = "captions" if recipe.stage == 1 else "questions"
    everything, _ = about_pictures(processor, samples, what, inputs)
    dataset, _ = about_pictures(processor, samples, what, inputs, recipe.max_length)
    if len(dataset) < len(everything):
        say(f"left out {len(everything) - len(dataset):,} pictures with more than max_length={recipe.max_length} tokens")
    if not len(dataset):
        raise RecipeError(f"max_length={recipe.max_length} leaves no picture with {what}; allow more tokens.")
    return dataset
