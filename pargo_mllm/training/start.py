"""What a run starts from: a folder with a model and its processor, or whatever else a command hands over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import torch

from pargo_mllm.assembly import with_projector
from pargo_mllm.configuration import ParGoConfig
from pargo_mllm.loading import check_model_folder, open_config, open_model, open_processor
from pargo_mllm.model_files import ModelFolderError, check_counts, told
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.training.recipes import Recipe, RecipeError


class Start(Protocol):
    """A model and its processor before a stage; the projector that the recipe asks for is in it."""

    def config(self) -> ParGoConfig:
        """The model's configuration, without its weights. Raises :class:`RecipeError` for one that cannot be."""

    def tiles(self) -> int:
        """Tiles that the processor makes of the largest picture, the overview among them."""

    def prepare(self) -> None:
        """What one process does once, before any of them loads."""

    def load(self, attention: dict[str, Any]) -> tuple[ParGoForConditionalGeneration, ParGoProcessor]:
        """Model and processor, with these implementations of attention."""


def start_of(recipe: Recipe, dry_run: bool) -> Start:
    """What the recipe itself names.

    Raises:
        RecipeError: if it names nothing that a run can start from.
    """
    if recipe.model is not None:
        return FolderStart(recipe.model, recipe.projector, recipe.seed)
    if recipe.architecture is None or not dry_run:
        raise RecipeError("--model is missing: give the folder of a model and its processor to start from.")
    return PlannedStart(recipe.architecture, recipe.projector)


class FolderStart:
    """A folder that holds a model and its processor.

    Args:
        projector: arguments in place of the folder's, for a fresh projector; None to go on with the one that is there.
        seed: of a fresh projector.
    """

    def __init__(self, folder: Path, projector: dict[str, Any] | None = None, seed: int = 0):
        self.folder, self.projector, self.seed = folder, projector, seed

    def config(self) -> ParGoConfig:
        """See :class:`Start`."""
        try:
            check_model_folder(self.folder)
            config = open_config(self.folder)
            # what its tokenizer and template cannot do is known before data is read
            open_processor(self.folder, config)
        except ModelFolderError as error:
            raise RecipeError(f"--model: {error}") from error
        return changed_config(_trainable(config, self.folder), self.projector)

    def tiles(self) -> int:
        """See :class:`Start`."""
        file = self.folder / "processor_config.json"
        try:
            processor = json.loads(file.read_text())
            return most_tiles(int(processor.get("max_tiles", 1)), bool(processor.get("overview_tile", False)))
        except (ValueError, TypeError, AttributeError) as error:
            raise RecipeError(f"--model: {file} is no configuration of a processor: {error}.") from error

    def prepare(self) -> None:
        """See :class:`Start`: nothing."""

    def load(self, attention: dict[str, Any]) -> tuple[ParGoForConditionalGeneration, ParGoProcessor]:
        """See :class:`Start`."""
        model, processor = open_model(self.folder, attn_implementation=attention)
        if self.projector is not None:
            model, processor = with_projector(model, processor, changed_config(model.config, self.projector), self.seed)
            model.set_attn_implementation(attention)
        return model, processor


class PlannedStart:
    """A configuration without weights, for plans alone."""

    def __init__(self, architecture: dict[str, Any], projector: dict[str, Any] | None = None):
        self.architecture, self.projector = architecture, projector

    def config(self) -> ParGoConfig:
        """See :class:`Start`."""
        with told("architecture", RecipeError):
            check_counts(self.architecture)
            config = ParGoConfig(**self.architecture)
        return changed_config(config, self.projector)

    def tiles(self) -> int:
        """See :class:`Start`: a plan cuts no picture."""
        return 1

    def prepare(self) -> None:
        """See :class:`Start`: never asked for."""

    def load(self, attention: dict[str, Any]) -> tuple[ParGoForConditionalGeneration, ParGoProcessor]:
        """See :class:`Start`: there is nothing to load."""
        raise RecipeError("--model is missing: give the folder of a model and its processor to start from.")


def most_tiles(max_tiles: int, overview_tile: bool) -> int:
    """What a picture becomes at most, by the arguments of :class:`pargo_mllm.processing.ParGoProcessor`."""
    return max_tiles + (max_tiles > 1 and overview_tile)


def _trainable(config: ParGoConfig, folder: Path) -> ParGoConfig:
    if config.dtype_of("text_config") == torch.float16:
        raise RecipeError(
            f"--model: the language model of {folder} is in float16, in which gradients on their way to the projector vanish; "
            "save it in bfloat16 or float32: ParGoForConditionalGeneration.from_pretrained(DIR, dtype=torch.bfloat16)."
        )
    return config


def changed_config(config: ParGoConfig, projector: dict[str, Any] | None) -> ParGoConfig:
    """The configuration with other arguments of its projector; the rest of them stay.

    Raises:
        RecipeError: for arguments that do not fit the rest.
    """
    if projector is None:
        return config
    every = config.to_dict()
    with told("projector", RecipeError):
        check_counts(projector)
        return ParGoConfig(**{**every, "projector_config": {**every["projector_config"], **projector}})
