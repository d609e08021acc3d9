"""Pictures in transformers' generation: they enter with the prompt, once, and every copy of a prompt shows its own."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationMixin

# what belongs to the pictures of a prompt
VISUAL_INPUTS = ("pixel_values", "vision_features", "tile_counts", "picture_index")


class PictureGenerationMixin(GenerationMixin):
    """Generation for a model whose prompts show pictures; it needs the model's ``config`` and word embeddings."""

    config: Any
    get_input_embeddings: Any

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids, *args, inputs_embeds=None, is_first_iteration: bool = False, **kwargs
    ):
        """Pictures enter with the prompt; later steps find them in the cache."""
        kwargs |= {"inputs_embeds": inputs_embeds, "is_first_iteration": is_first_iteration}
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)  # type: ignore[misc]
        visual = {name: inputs.pop(name) for name in VISUAL_INPUTS if inputs.get(name) is not None}
        if not visual or (not is_first_iteration and inputs.get("use_cache", True)):
            return inputs
        ahead = inputs.get("input_ids")
        if ahead is not None and ahead.shape[1] < input_ids.shape[1]:
            visual = self._still_to_come(visual, input_ids, input_ids.shape[1] - ahead.shape[1])
        return {**inputs, **visual}

    def _still_to_come(self, visual: dict[str, torch.Tensor], input_ids: torch.Tensor, cached: int) -> dict[str, torch.Tensor]:
        """Without the pictures whose placeholders are among the ``cached`` first tokens of each row: a conversation goes on."""
        index = []
        places = self._placeholders(input_ids, None)
        for pictures, row in zip(self._pictures_of(visual, places), places, strict=True):
            known = int(row[:cached].sum())
            for picture, tokens in pictures:
                if known <= 0:
                    index.append(picture)
                elif known < tokens:
                    raise ValueError(
                        f"past_key_values holds {cached} tokens and ends inside a picture's {tokens}; cut it in front of the "
                        "picture."
                    )
                known -= tokens
        return {**visual, "picture_index": torch.tensor(index, device=input_ids.device)} if index else {}

    def _expand_inputs_for_generation(self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids=None, **kwargs):
        """For beams and several answers: every copy of a prompt shows the prompt's pictures again, each encoded once."""
        visual = {name: kwargs.pop(name) for name in VISUAL_INPUTS if kwargs.get(name) is not None}
        if expand_size > 1 and visual:
            places = self._placeholders(input_ids, kwargs.get("inputs_embeds"))
            index = [picture for row in self._pictures_of(visual, places) for picture, _ in row * expand_size]
            visual["picture_index"] = torch.tensor(index, device=places.device)
        input_ids, kwargs = super()._expand_inputs_for_generation(  # type: ignore[misc]
            expand_size, is_encoder_decoder, input_ids, **kwargs
        )
        return input_ids, {**kwargs, **visual}

    def _placeholders(self, input_ids: torch.Tensor | None, inputs_embeds: Any) -> torch.Tensor:
        """Bool ``[B, L]``: where pictures stand in the prompts, given as ids or as embeddings."""
        if input_ids is not None and input_ids.shape[1]:
            return input_ids == self.config.image_token_id
        embeddings = self.get_input_embeddings()
        token = torch.tensor(self.config.image_token_id, device=inputs_embeds.device)
        return (inputs_embeds == embeddings(token)).all(-1)

    def _pictures_of(self, visual: dict[str, torch.Tensor], places: torch.Tensor) -> list[list[tuple[int, int]]]:
        """Which pictures each prompt shows at its placeholders ``[B, L]``, with the tokens of each."""
        images = visual["pixel_values" if "pixel_values" in visual else "vision_features"]
        counts = visual["tile_counts"].tolist() if "tile_counts" in visual else [1] * len(images)
        remaining = iter(visual["picture_index"].tolist() if "picture_index" in visual else range(len(counts)))
        together, per_image = self.config.projector_config.reads_tiles_together, self.config.num_image_tokens
        prompts: list[list[tuple[int, int]]] = []
        for placeholders in places.sum(-1).tolist():
            prompts.append([])
            while placeholders > 0 and (picture := next(remaining, None)) is not None:
                tokens = per_image * (1 if together else counts[picture])
                prompts[-1].append((picture, tokens))
                placeholders -= tokens
        return prompts
