"""Whether text alone goes through the multimodal model as through its language model."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from pargo_mllm.configuration import LanguageModelError
from pargo_mllm.modeling import ParGoForConditionalGeneration

# of the largest logit, in units of the dtype's precision: the same operations in the same order differ by nothing
TOLERANCE = 8
_ROWS, _LENGTH, _PADDING, _GENERATED = 2, 12, 3, 4


@torch.no_grad()
def check_same(model: ParGoForConditionalGeneration, language_model: PreTrainedModel) -> float:
    """Compare logits, loss and generated tokens for random text.

    Args:
        model: with the language model's weights.
        language_model: with its head; both on one device.

    Returns:
        The largest difference between logits; 0 is what to expect.

    Raises:
        LanguageModelError: naming the class and what differs, or what it raised.
    """
    name = type(language_model).__name__
    device = language_model.device
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.text_config.vocab_size, (_ROWS, _LENGTH), generator=generator)
    # the image token stands for pictures only
    ids[ids == model.config.image_token_id] = 0 if model.config.image_token_id else 1
    mask = torch.ones_like(ids)
    mask[-1, :_PADDING] = 0
    batch = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    labels = ids.masked_fill(mask == 0, -100).to(device)
    modes = [(one, one.training) for one in (model, language_model)]
    try:
        ours, own = (one.eval()(**batch, labels=labels, use_cache=True) for one in (model, language_model))
        if getattr(own, "past_key_values", None) is None:
            raise LanguageModelError(f"{name} keeps no past_key_values, with which generation behind pictures goes on.")
        said = [_generated(one, batch, model.config.image_token_id) for one in (model, language_model)]
    except LanguageModelError:
        raise
    # whatever a class of transformers raises where it is asked for what it does not offer
    except Exception as error:
        raise LanguageModelError(
            f"{name} cannot stand behind pictures: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error
    finally:
        for one, trains in modes:
            one.train(trains)
    allowed = TOLERANCE * torch.finfo(own.logits.dtype).eps * max(1.0, own.logits[mask.bool()].abs().max().item())
    difference = (ours.logits - own.logits)[mask.bool()].abs().max().item()
    if not difference <= allowed:
        raise LanguageModelError(
            f"{name}: the logits of text alone differ by {difference:.3g} from the language model's own: something that it "
            "does to text is lost behind pictures (it may need the token ids in its layers)."
        )
    if not abs(ours.loss.item() - own.loss.item()) <= max(1e-5, allowed):
        raise LanguageModelError(f"{name}: its loss of text alone is {own.loss.item():.6g}, and here {ours.loss.item():.6g}.")
    if not torch.equal(*said):
        raise LanguageModelError(f"{name}: it generates {said[1].tolist()}, and here {said[0].tolist()}.")
    return difference


def _generated(model: PreTrainedModel, batch: dict[str, torch.Tensor], image_token_id: int) -> torch.Tensor:
    options: dict[str, Any] = {"suppress_tokens": [image_token_id], "pad_token_id": 0}
    if hasattr(model.config.get_text_config(), "output_router_logits"):
        # classes that balance their router as they generate count more tokens than they are given
        options["output_router_logits"] = False
    # greedy, whatever its own settings: they are taken over as they are, and not compared
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        out = model.generate(**batch, max_new_tokens=_GENERATED, **options)  # type: ignore[operator]
    finally:
        model.generation_config = own
    return out[:, -_GENERATED:].cpu()
