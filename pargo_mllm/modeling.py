"""The multimodal model: vision encoder -> projector -> language model, in transformers' form."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import AutoModel, Cache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, ModelOutput
from transformers.utils import can_return_tuple

from pargo_mllm.auto_map import NamesItsClasses
from pargo_mllm.causal_head import CausalHead
from pargo_mllm.configuration import ParGoConfig, expand_attention
from pargo_mllm.generation import PictureGenerationMixin
from pargo_mllm.loss import next_token_loss, share_of_labels
from pargo_mllm.projectors import build_projector
from pargo_mllm.row_masks import row_masks


@dataclass
class ParGoModelOutputWithPast(BaseModelOutputWithPast):
    """The language model's output; ``image_hidden_states`` ``[images, tokens, text width]`` are the projected tokens."""

    image_hidden_states: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor] | None = None


@dataclass
class ParGoCausalLMOutputWithPast(ModelOutput):
    """``loss`` where labels were given, ``logits`` ``[B, L, vocabulary]`` unless they were skipped, and what the language model
    returned."""

    loss: torch.Tensor | None = None
    aux_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor] | None = None
    attentions: tuple[torch.Tensor] | None = None
    image_hidden_states: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor] | None = None


class ParGoPreTrainedModel(NamesItsClasses, PreTrainedModel):
    """Loading, saving and initialisation of all ParGo models."""

    config_class = ParGoConfig
    config: ParGoConfig
    base_model_prefix = "model"
    input_modalities: str | list[str] = ["image", "text"]  # noqa: RUF012 (the type is transformers')
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012 (transformers reads it from the class)
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @property
    def dtype(self) -> torch.dtype:
        """The language model's; encoder and projector may have others."""
        return self.base_model.language_model.dtype  # type: ignore[return-value, union-attr]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, config=None, dtype=None, torch_dtype=None, **kwargs):
        """As in transformers. Without ``dtype``, or with "auto", every part has the dtype that it was saved with."""
        asked = torch_dtype if dtype is None else dtype
        if asked not in (None, "auto"):
            if isinstance(config, ParGoConfig):
                config = copy.deepcopy(config)
                config.part_dtypes = None
            else:
                kwargs["part_dtypes"] = None
        return super().from_pretrained(pretrained_model_name_or_path, *args, config=config, dtype=asked, **kwargs)

    def save_pretrained(self, *args, **kwargs):
        """As in transformers; the parts' dtypes are noted where they differ."""
        parts = {part: str(main_dtype(module)).removeprefix("torch.") for part, module in self._parts().items()}
        self.config.part_dtypes = parts if len(set(parts.values())) > 1 else None
        super().save_pretrained(*args, **kwargs)

    def _get_dtype_plan(self, dtype: torch.dtype) -> dict[str, torch.dtype]:
        """Patterns of names, of which the first one that matches decides, and dtypes other than ``dtype``."""
        plan: dict[str, torch.dtype] = {}
        own = self.config.part_dtypes or {}
        for one in dict.fromkeys([dtype, *map(self.config.dtype_of, own)]):
            # what a part always keeps in fp32
            plan |= super()._get_dtype_plan(one)
        modules = {"vision_config": "vision_tower", "projector_config": "projector", "text_config": "language_model|lm_head"}
        return plan | {rf"^(?:model\.)?(?:{modules[part]})\.": self.config.dtype_of(part) for part in own}

    def _parts(self) -> dict[str, nn.Module]:
        model: Any = self.base_model
        return {"vision_config": model.vision_tower, "projector_config": model.projector, "text_config": model.language_model}

    def set_attn_implementation(self, attn_implementation, *args, **kwargs):
        """A bare name is for encoder and language model ("pargo": for the projector); a dict names the parts."""
        super().set_attn_implementation(expand_attention(attn_implementation), *args, **kwargs)


class ParGoModel(ParGoPreTrainedModel):
    """Vision encoder, projector and language model without a head."""

    def __init__(self, config: ParGoConfig):
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.projector = build_projector(config.projector_config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's word embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's word embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_vision_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the projector reads of a picture: ``[images, n_v, vision width]`` from pixels ``[images, 3, s, s]``."""
        layer, dtype = self.config.vision_feature_layer, self.vision_tower.dtype
        # fp16 beside bf16 has ops that no CPU knows; alone it is exact enough, and nothing trains here
        own = torch.autocast(pixel_values.device.type, enabled=False) if dtype == torch.float16 else nullcontext()
        with own:
            outputs = self.vision_tower(pixel_values.to(dtype), output_hidden_states=layer != -1, return_dict=True)
        features = outputs.last_hidden_state if layer == -1 else outputs.hidden_states[layer]
        return features[:, 1:] if self.config.vision_feature_select_strategy == "default" else features

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        tile_counts: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Projected tokens of pictures.

        Args:
            pixel_values: ``[images, 3, s, s]``, or
            vision_features: ``[images, n_v, vision width]``, what :meth:`get_vision_features` gave: a frozen encoder need
                not run again.
            tile_counts: int64 ``[pictures]``, where large pictures come as tiles: how many consecutive images of the batch
                are one picture. A projector that ``reads_tiles_together`` makes one set of tokens of them.

        Returns:
            ``last_hidden_state``, the features, and ``pooler_output`` ``[images or pictures, tokens, text width]``.
        """
        if (pixel_values is None) == (vision_features is None):
            raise ValueError("give either pixel_values or vision_features, the encoder's features of the same pictures.")
        if vision_features is None:
            vision_features = self.get_vision_features(pixel_values)
        if tile_counts is not None:
            self._check_tiles(tile_counts, len(vision_features))
        if tile_counts is None or not self.config.projector_config.reads_tiles_together:
            tokens = self._project(vision_features)
        else:
            ends = nn.functional.pad(tile_counts.cumsum(0), (1, 0)) * vision_features.shape[1]
            packed = vision_features.flatten(0, 1)[None]
            tokens = self._project(packed, cu_seqlens=ends.to(packed.device, torch.int32))
        return BaseModelOutputWithPooling(last_hidden_state=vision_features, pooler_output=tokens)

    def _project(self, features: torch.Tensor, **tiles: torch.Tensor) -> torch.Tensor:
        """The projector, in its own dtype whatever the encoder's is."""
        return self.projector(features.to(next(self.projector.parameters()).dtype), **tiles)

    @staticmethod
    def _check_tiles(tile_counts: torch.Tensor, num_images: int) -> None:
        counts = tile_counts.tolist()
        if min(counts, default=1) < 1 or sum(counts) != num_images:
            raise ValueError(
                f"tile_counts={counts} must be positive and add up to the {num_images} images of the batch; pass on what the "
                "processor gave."
            )

    def get_placeholder_mask(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor, image_tokens: torch.Tensor
    ) -> torch.Tensor:
        """Where the projected tokens go: bool ``[B, L, 1]``.

        Raises:
            ValueError: if the placeholders and the tokens of the pictures are not equally many.
        """
        if input_ids is None:
            image_token = torch.tensor(self.config.image_token_id, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(image_token)).all(-1)
        else:
            mask = input_ids == self.config.image_token_id
        placeholders, (images, per_image) = int(mask.sum()), image_tokens.shape[:2]
        if placeholders != images * per_image:
            rows = ", ".join(map(str, mask.sum(-1).tolist()))
            raise ValueError(
                f"the text holds {placeholders} image tokens (by sample: {rows}) and {images} pictures of {per_image} tokens "
                f"each need {images * per_image}: let the processor expand the image token, and do not truncate it."
            )
        return mask.unsqueeze(-1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        tile_counts: torch.Tensor | None = None,
        picture_index: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> ParGoModelOutputWithPast:
        """Run the model.

        Args:
            input_ids: ``[B, L]`` with every image token expanded; or ``inputs_embeds`` ``[B, L, text width]``.
            pixel_values, vision_features, tile_counts: as in :meth:`get_image_features`, all pictures of the batch in order;
                none for text alone.
            picture_index: int64 ``[shown]``, where the text shows pictures more than once or in another order: which of the
                pictures each run of placeholders stands for. Each is encoded and projected once all the same.
            attention_mask: ``[B, L]``, 1 for tokens and 0 for padding; or bool ``[B, 1, L, L]``, True where the row's
                token may see the column's (packed conversations).
            position_ids: ``[B, L]``. Without a mask, documents packed one behind the other do not see each other: each begins
                where the positions do not go on.
            use_cache: keep keys and values for what comes next. With ``position_ids`` and no mask only where asked for:
                transformers does not tell documents apart while it fills a cache.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        image_tokens = None
        if pixel_values is not None or vision_features is not None:
            image_tokens = self.get_image_features(pixel_values, vision_features, tile_counts).pooler_output
            shown = image_tokens if picture_index is None else self._shown(image_tokens, picture_index, tile_counts)
            inputs_embeds = self.insert_image_tokens(input_ids, inputs_embeds, shown)
        else:
            self._check_no_placeholder(input_ids, past_key_values)
            if self._projector_is_awaited():
                inputs_embeds = inputs_embeds + self._nothing_projected(inputs_embeds)
        if use_cache is None and past_key_values is None and position_ids is not None and attention_mask is None:
            use_cache = False
        mask: Any = attention_mask
        if attention_mask is not None and attention_mask.dim() == 4 and attention_mask.dtype == torch.bool:
            mask = row_masks(attention_mask, position_ids, self.language_model, inputs_embeds.dtype)
        outputs = self.language_model(
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        return ParGoModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=getattr(outputs, "past_key_values", None),
            hidden_states=outputs.hidden_states,
            attentions=getattr(outputs, "attentions", None),
            image_hidden_states=image_tokens,
            router_logits=getattr(outputs, "router_logits", None),
        )

    def _check_no_placeholder(self, input_ids: torch.Tensor | None, past_key_values: Cache | None) -> None:
        """Refuse text that stands for pictures where none is given: their places would be answered about all the same."""
        # one token behind a cache is what generation said, never a picture
        if input_ids is None or (past_key_values is not None and input_ids.shape[1] == 1):
            return
        rows = (input_ids == self.config.image_token_id).sum(-1)
        if rows.any():
            raise ValueError(
                f"the text holds {int(rows.sum())} image tokens (by sample: {', '.join(map(str, rows.tolist()))}) and no "
                "picture is given: pass on pixel_values, as the processor gave them."
            )

    def _projector_is_awaited(self) -> bool:
        """Whether it must run without pictures too: where it trains, and where processes that hold parts of it gather them."""
        trains = any(parameter.requires_grad for parameter in self.projector.parameters())
        sharded = any(isinstance(parameter, DTensor) for parameter in self.projector.parameters())
        return trains and (sharded or (self.training and torch.is_grad_enabled()))

    def _nothing_projected(self, like: torch.Tensor) -> torch.Tensor:
        """Zero, and zero as the gradient of every parameter of the projector.

        With text alone a rank would otherwise have nothing to exchange with those that see pictures, which wait for it: in the
        same place, in front of the language model.
        """
        shape = (1, self.config.num_visual_tokens, self.config.projector_config.vision_hidden_size)
        features = torch.zeros(shape, dtype=self.vision_tower.dtype, device=like.device)
        return (0.0 * self._project(features).sum()).to(like.dtype)

    def _shown(self, image_tokens: torch.Tensor, picture_index: torch.Tensor, tile_counts: torch.Tensor | None) -> torch.Tensor:
        if tile_counts is None or self.config.projector_config.reads_tiles_together:
            return image_tokens[picture_index]
        pictures = image_tokens.split(tile_counts.tolist())
        return torch.cat([pictures[index] for index in picture_index.tolist()])

    def insert_image_tokens(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor, image_tokens: torch.Tensor
    ) -> torch.Tensor:
        """``inputs_embeds`` ``[B, L, C]``, placeholders replaced by ``image_tokens`` ``[images, tokens, C]`` in order."""
        mask = self.get_placeholder_mask(input_ids, inputs_embeds, image_tokens)
        return inputs_embeds.masked_scatter(mask, image_tokens.to(inputs_embeds.dtype))


def main_dtype(module: nn.Module) -> torch.dtype:
    """That of most of its weights."""
    sizes: dict[torch.dtype, int] = {}
    for parameter in module.parameters():
        if parameter.is_floating_point():
            sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
    return max(sizes, key=lambda dtype: sizes[dtype])


class ParGoForConditionalGeneration(ParGoPreTrainedModel, PictureGenerationMixin):
    """The model with its language-modelling head: trains on labels and generates.

    Logits and loss are those of the language model's own causal class (:class:`~pargo_mllm.causal_head.CausalHead`).

    Raises:
        LanguageModelError: for a text configuration whose causal class cannot be taken apart.
    """

    def __init__(self, config: ParGoConfig):
        super().__init__(config)
        self.causal_head = CausalHead(config.text_config)
        self.model = ParGoModel(config)
        self.lm_head = self.causal_head.new_head().to(self.model.language_model.dtype)
        if self.causal_head.can_be_tied:
            self._tied_weights_keys = {"lm_head.weight": f"model.language_model.{self.causal_head.embeddings_name}.weight"}
        # it stands for a picture that is given, and nothing that is said
        self.generation_config.suppress_tokens = [config.image_token_id]
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's word embeddings."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's word embeddings."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def get_image_features(self, *args, **kwargs) -> BaseModelOutputWithPooling:
        """See :meth:`ParGoModel.get_image_features`."""
        return self.model.get_image_features(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        tile_counts: torch.Tensor | None = None,
        picture_index: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool | None = None,
        **kwargs,
    ) -> ParGoCausalLMOutputWithPast:
        """As :meth:`ParGoModel.forward`.

        Args:
            labels: ``[B, L]``, -100 where no loss is wanted; shifted inside, as everywhere in transformers.
            logits_to_keep: how many logits from the end (0: all), or the positions that are wanted.
            skip_logits: return none. When None: in training with labels, whose loss needs few of them
                (:func:`~pargo_mllm.loss.next_token_loss`).
        """
        if getattr(self.config.text_config, "output_router_logits", False):
            kwargs.setdefault("output_router_logits", True)
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            vision_features=vision_features,
            tile_counts=tile_counts,
            picture_index=picture_index,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **{name: value for name, value in kwargs.items() if name != "num_items_in_batch"},
        )
        hidden_states = outputs.last_hidden_state
        if skip_logits is None:
            skip_logits = self.training and labels is not None
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = None if skip_logits else self._logits(hidden_states[:, keep])
        loss, aux_loss = None, None
        if labels is not None:
            vocab_size, items = self.config.text_config.vocab_size, kwargs.get("num_items_in_batch")
            loss = next_token_loss(self._logits, hidden_states, labels, vocab_size, items)
            own = self.causal_head.own_loss(
                self.lm_head, hidden_states, outputs.router_logits, _padding_mask(attention_mask, position_ids)
            )
            if own is not None:
                added, aux_loss = own
                loss = loss + share_of_labels(labels, items) * added.to(loss.device)
        return ParGoCausalLMOutputWithPast(
            loss=loss,
            aux_loss=aux_loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
            router_logits=outputs.router_logits,
        )

    def _logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.causal_head.logits(self.lm_head, hidden_states)


def _padding_mask(attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None) -> torch.Tensor | None:
    """``[B, L]``, 1 for tokens and 0 for padding, of a mask of either form; None where nothing is padding."""
    if attention_mask is None or attention_mask.dim() != 4:
        return attention_mask
    if position_ids is None:
        return None
    # padding stays at position 0, where a document begins and goes on
    goes_on = nn.functional.pad(position_ids[:, 1:] == 1, (0, 1), value=False)
    return ((position_ids != 0) | goes_on).long()
