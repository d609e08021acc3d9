"""What an answer looked at: the language model's attention to the picture's tokens, carried on to the patches behind them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pargo_mllm.answering.prompt_attention import NoAttentionError, attention_to_prompt
from pargo_mllm.data.corpus import Conversation
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.pictures.attention import show_heat
from pargo_mllm.pictures.style import new_figure, save_figure
from pargo_mllm.pictures.token_maps import TokenMaps, token_maps
from pargo_mllm.processing import ParGoProcessor

# of an answer: what it says first decides most of it
FIRST_TOKENS = 4
# inches along the longer side
_SIDE = 3.4


@dataclass(frozen=True)
class AnswerMap:
    """Where an answer looked.

    Args:
        maps: of the projector on the picture.
        tokens: ``[n_p + n_g]``, the share of the attention that each token of the picture had; the rest of it went to the text,
            so that they sum to less than 1.
        patches: ``[n_v]``, the same carried on to the patches.
    """

    maps: TokenMaps
    tokens: np.ndarray
    patches: np.ndarray


@torch.no_grad()
def answer_map(
    model: ParGoForConditionalGeneration,
    processor: ParGoProcessor,
    conversation: Conversation,
    picture: Image.Image,
    answer: str,
) -> AnswerMap:
    """Follow the attention of the first tokens of an answer back to the picture.

    A weight is the mean over heads, layers and the first :data:`FIRST_TOKENS` tokens, each seen from where it was decided on.
    From a token of the picture it is shared out over the patches as that token looked at them, the mean over the projector's
    layers and heads.

    Args:
        conversation: of one picture, which is ``picture``, the question at its end.
        answer: what the model said.

    Raises:
        NoAttentionError: for a model that keeps no attention (recurrent layers alone), a projector without a map from tokens to
            patches, and a picture that is cut into tiles.
        ConversationError, PictureError: as for an answer.
    """
    try:
        maps = token_maps(model, processor, picture)
    except ValueError as error:
        raise NoAttentionError(str(error)) from error
    inputs = processor.prompts([conversation]).to(model.device)
    if "tile_counts" in inputs and int(inputs["tile_counts"].sum()) > 1:
        raise NoAttentionError("the picture was cut into tiles, and the map from tokens to patches is of a whole picture")
    said = processor.tokenizer(answer, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    weights = attention_to_prompt(model, inputs, said[: FIRST_TOKENS - 1])
    tokens = weights[inputs["input_ids"][0].cpu().numpy() == model.config.image_token_id]
    if len(tokens) != maps.cross.shape[1]:
        raise NoAttentionError(f"the prompt shows {len(tokens)} picture tokens, and the map is of {maps.cross.shape[1]}")
    return AnswerMap(maps, tokens, tokens @ maps.cross.mean(axis=0))


def draw_answer_map(seen: AnswerMap, path: str | os.PathLike) -> Path:
    """Draw where an answer looked, as a PNG: the picture, dark where no attention went and bright where most of it did."""
    height, width = seen.maps.picture.shape[:2]
    scale = _SIDE / max(height, width)
    figure = new_figure(width * scale, height * scale)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    show_heat(ax, maps=seen.maps, weights=seen.patches)
    return save_figure(figure, path)
