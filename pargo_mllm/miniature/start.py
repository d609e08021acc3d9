"""What a run of a packaged recipe starts from on a machine without pretrained parts: those of stage 0 around a projector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pargo_mllm.assembly import assemble
from pargo_mllm.configuration import ParGoConfig
from pargo_mllm.miniature.parts import Parts
from pargo_mllm.miniature.sizes import SCALES, build_config, build_encoder, build_language_model, build_processor
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.training.recipes import Recipe, RecipeError
from pargo_mllm.training.start import most_tiles


class MiniatureStart:
    """See :class:`pargo_mllm.training.start.Start`.

    Args:
        parts: stage 0.
        projector: arguments of ParGoProjectorConfig in place of the miniature's.
        seed: of the projector.
    """

    def __init__(self, parts: Parts, projector: dict[str, Any] | None = None, seed: int = 0):
        self.parts, self.projector, self.seed = parts, projector, seed

    def config(self) -> ParGoConfig:
        """See :class:`pargo_mllm.training.start.Start`."""
        size = self.parts.size
        # an encoder learns nothing from photographs that nobody labelled
        self.parts.lessons.check()
        tokenizer = self.parts.processor.tokenizer
        with torch.device("meta"):
            encoder = build_encoder(size)
            language_model = build_language_model(size, len(tokenizer), tokenizer.pad_token_id)
        return self._config(encoder.config, language_model.config)

    def tiles(self) -> int:
        """See :class:`pargo_mllm.training.start.Start`."""
        return most_tiles(self.parts.processor.max_tiles, self.parts.processor.overview_tile)

    def prepare(self) -> None:
        """See :class:`pargo_mllm.training.start.Start`: train what is not kept from an earlier time."""
        self.parts.encoder()
        self.parts.language_model()

    def load(self, attention: dict[str, Any] | str = "eager") -> tuple[ParGoForConditionalGeneration, ParGoProcessor]:
        """See :class:`pargo_mllm.training.start.Start`."""
        encoder, language_model = self.parts.trained_encoder(), self.parts.trained_language_model()
        model = assemble(self._config(encoder.config, language_model.config), encoder, language_model, self.seed)
        model.set_attn_implementation(attention)
        return model, build_processor(self.parts.processor.tokenizer, model.config.num_image_tokens)

    def encoder_alone(self) -> ParGoForConditionalGeneration:
        """The model with the trained encoder and nothing else that is: what encoding pictures needs."""
        encoder, language_model = self.parts.trained_encoder(), self.parts.fresh_language_model()
        model = assemble(self._config(encoder.config, language_model.config), encoder, language_model, self.seed)
        model.set_attn_implementation("eager")
        return model

    def _config(self, vision_config, text_config) -> ParGoConfig:
        image_token_id = self.parts.processor.image_token_id
        try:
            return build_config(self.parts.size, vision_config, text_config, image_token_id, self.projector)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"projector: {error}") from error


def miniature_start(recipe: Recipe, cache: Path, device: str | None = None, position: int = 0) -> MiniatureStart | None:
    """What a recipe with ``miniature`` and without ``model`` starts from; None for any other.

    Raises:
        RecipeError: for an unknown miniature, or data that no vocabulary can be taken from.
    """
    if recipe.miniature is not None and recipe.miniature not in SCALES:
        raise RecipeError(f"miniature={recipe.miniature!r} is unknown; it must be one of {', '.join(SCALES)}.")
    if recipe.miniature is None or recipe.model is not None:
        return None
    if recipe.data is None:
        raise RecipeError("--data is missing: the miniature's vocabulary comes from it.")
    if len(recipe.data) > 1:
        raise RecipeError(
            "--data: without --model the miniature's vocabulary comes from scenes or one COCO-style folder; give one, or a "
            "--model."
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    size = SCALES[recipe.miniature].on(device)
    parts = Parts(size, recipe.data[0].source, cache, device, position)
    return MiniatureStart(parts, recipe.projector, recipe.seed)
