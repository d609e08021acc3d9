"""A multimodal model around parts that are trained already."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pargo_mllm.configuration import ParGoConfig
from pargo_mllm.data.feeding.templates import IMAGE_TOKEN
from pargo_mllm.language.families import LanguageFamily, check_vocabulary, chosen_family, prepare_tokenizer, set_end_tokens
from pargo_mllm.language.generation import make_savable
from pargo_mllm.language.sameness import check_same
from pargo_mllm.modeling import ParGoForConditionalGeneration, main_dtype
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.projectors import build_projector
from pargo_mllm.vision.framing import given_side, stretched

FRAMINGS = ("stretch", "crop")


def assemble(
    config: ParGoConfig, vision_tower: PreTrainedModel, language_model: PreTrainedModel, seed: int = 0
) -> ParGoForConditionalGeneration:
    """The model of ``config`` with the weights of an encoder and of a causal language model; the projector is fresh.

    Encoder and language model keep the dtypes of their weights; the projector is in fp32, as it trains.

    Args:
        vision_tower: of the class that ``config.vision_config`` names.
        language_model: with its head, of the class that ``config.text_config`` names.
        seed: of the projector's weights.
    """
    # so that no part is built wider than it is
    config.vision_config.dtype, config.text_config.dtype = main_dtype(vision_tower), main_dtype(language_model)
    torch.manual_seed(seed)
    model = ParGoForConditionalGeneration(config)
    model.model.projector.float()
    _take(model.model.vision_tower, vision_tower)
    _take(model.model.language_model, getattr(language_model, model.causal_head.decoder_name))
    _take(model.lm_head, language_model.get_output_embeddings())
    return model


def _take(part: torch.nn.Module, given: torch.nn.Module) -> None:
    """Give ``part`` the weights of ``given``, in their dtypes."""
    weights = given.state_dict()
    for name, own in (*part.named_parameters(), *part.named_buffers()):
        if name in weights:
            own.data = own.data.to(weights[name].dtype)
    part.load_state_dict(weights)


def model_and_processor(
    vision_tower: PreTrainedModel,
    language_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    image_processor,
    projector: Mapping[str, Any] | None = None,
    family: LanguageFamily | str | None = None,
    seed: int = 0,
    framing: str = "stretch",
) -> tuple[ParGoForConditionalGeneration, ParGoProcessor]:
    """A multimodal model of a pretrained encoder and chat model, ready for training, and its processor.

    The tokenizer gets the family's chat template and the image token, the embeddings grow where the vocabulary did, and
    generation stops where the family ends a turn.

    Args:
        vision_tower: EVA-02-CLIP, or a CLIP or SigLIP vision model of transformers.
        language_model: a causal language model of transformers, with its head. Its embeddings are resized in place.
        tokenizer: the chat model's. Changed in place.
        image_processor: the encoder's.
        projector: arguments of :class:`ParGoProjectorConfig`; the paper's ParGo when None.
        family: where it cannot be told from the model and its vocabulary.
        seed: of the projector's weights.
        framing: "stretch": an image processor that crops (CLIP's own), or gives other shapes than squares of the encoder's
            size, is replaced by one that stretches whole pictures to that size, and that is said; "crop": it is kept.

    Raises:
        ValueError: if the family is unknown, or the parts do not fit; for "crop" also if the image processor makes pictures of
            another size than the encoder's.
    """
    if framing not in FRAMINGS:
        raise ValueError(f"framing={framing!r} must be one of {', '.join(map(repr, FRAMINGS))}.")
    side = vision_tower.config.image_size
    if framing == "stretch":
        image_processor = _stretched(image_processor, side)
    elif (own := given_side(image_processor)) not in (side, None):
        raise ValueError(
            f"{type(image_processor).__name__} makes pictures of {own} pixels and the encoder takes {side}; give one with "
            f"size={side} (and crop_size), or framing='stretch', which sees to it."
        )
    embeddings: Any = language_model.get_input_embeddings()
    check_vocabulary(tokenizer, embeddings.weight.shape[0])
    vocabulary = prepare_tokenizer(tokenizer, chosen_family(language_model.config, tokenizer, family))
    if vocabulary > language_model.config.vocab_size:
        language_model.resize_token_embeddings(vocabulary)
    config = ParGoConfig(
        vision_config=vision_tower.config,
        text_config=language_model.config,
        projector_config=dict(projector or {}),
        image_token_id=tokenizer.get_vocab()[IMAGE_TOKEN],
    )
    model = assemble(config, vision_tower, language_model, seed)
    check_same(model, language_model)
    processor = ParGoProcessor(
        image_processor,
        tokenizer,
        num_image_tokens=config.num_image_tokens,
        tokens_per_tile=not config.projector_config.reads_tiles_together,
    )
    take_generation_settings(model, language_model, tokenizer, processor.chat_format.check())
    return model, processor


def _stretched(image_processor, side: int):
    whole = stretched(image_processor, side)
    if whole is not image_processor:
        own, cropped = given_side(image_processor), getattr(image_processor, "do_center_crop", False)
        fits = own in (side, None)
        why = "crops pictures, or keeps their shape" if fits else f"makes pictures of {own} pixels and the encoder takes {side}"
        kept = "keeps it as it is" if fits else "takes one of the encoder's size alone"
        warnings.warn(
            f"{type(image_processor).__name__} {why} (size={_plain(image_processor.size)}, do_center_crop={cropped}). Pictures "
            f"are stretched to {_plain(whole.size)} instead, so that the encoder sees all of each; framing='crop' {kept}.",
            stacklevel=3,
        )
    return whole


def _plain(size) -> dict[str, int]:
    return {edge: pixels for edge, pixels in dict(size).items() if pixels is not None}


def with_projector(
    model: ParGoForConditionalGeneration, processor: ParGoProcessor, config: ParGoConfig, seed: int = 0
) -> tuple[ParGoForConditionalGeneration, ParGoProcessor]:
    """The model with the fresh projector of another configuration, and a processor for its number of tokens."""
    # the parts that stay are taken as they are, with their own configurations
    config.vision_config, config.text_config = model.config.vision_config, model.config.text_config
    with torch.device("meta"):
        changed = ParGoForConditionalGeneration(config)
    torch.manual_seed(seed)
    changed.model.vision_tower, changed.model.language_model = model.model.vision_tower, model.model.language_model
    changed.lm_head = model.lm_head
    changed.model.projector = build_projector(config.projector_config)
    changed.model.projector.float()
    changed.generation_config = model.generation_config
    return changed, ParGoProcessor(
        processor.image_processor,
        processor.tokenizer,
        image_token=processor.image_token,
        chat_template=processor.chat_template,
        num_image_tokens=config.num_image_tokens,
        tokens_per_tile=not config.projector_config.reads_tiles_together,
        max_tiles=processor.max_tiles,
        overview_tile=processor.overview_tile,
    )


def take_generation_settings(
    model: ParGoForConditionalGeneration,
    language_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    turn_end: str | None = None,
) -> None:
    """Generate as the language model does, never an image token, and stop where a turn ends: at ``turn_end``, or the
    tokenizer's end token.

    Settings of the language model that have no effect and cannot be saved are left out, with a warning
    (:func:`~pargo_mllm.language.generation.make_savable`).
    """
    own = model.generation_config.suppress_tokens
    model.generation_config = copy.deepcopy(language_model.generation_config)
    model.generation_config.suppress_tokens = [*(model.generation_config.suppress_tokens or []), *own]
    set_end_tokens(model, tokenizer, turn_end)
    make_savable(model.generation_config)
