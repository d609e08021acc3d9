"""Answers to conversations, one or many at once: the model's next turn in each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pargo_mllm.data.corpus import Conversation
from pargo_mllm.data.feeding.chat_format import ConversationError
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.positions import max_positions
from pargo_mllm.processing import ParGoProcessor

# of an answer, where nobody says
MAX_NEW_TOKENS = 512
# what transformers takes where nobody says
_NO_LENGTH = (None, 20)


def generation_settings(max_new_tokens: int, temperature: float = 0.0, **others: Any) -> dict[str, Any]:
    """Arguments of ``generate``: sampling at a temperature, or the likeliest token where it is 0.

    Args:
        others: more of them; those that shape a distribution go where none is sampled from.
    """
    if temperature > 0:
        return {"max_new_tokens": max_new_tokens, "do_sample": True, "temperature": temperature, **others}
    greedy = {name: value for name, value in others.items() if name not in ("top_p", "top_k")}
    return {"max_new_tokens": max_new_tokens, "do_sample": False, **greedy}


@torch.inference_mode()
def answer(
    model: ParGoForConditionalGeneration, processor: ParGoProcessor, conversations: Sequence[Conversation], **generation: Any
) -> list[str]:
    """The next turn in each conversation, in their order; what one gets does not depend on the others.

    Args:
        conversations: messages in transformers' form, pictures as the parts ``{"type": "image", "image": picture}``.
        generation: arguments of ``model.generate`` on top of the model's own. Where neither says how long an answer may be, it
            has at most :data:`MAX_NEW_TOKENS`.

    Raises:
        ConversationError: if a conversation has no room left for an answer, or a text holds the image token, for which there is
            no picture.
    """
    if not conversations:
        return []
    own = model.generation_config
    if not {"max_new_tokens", "max_length"} & generation.keys() and own.max_new_tokens is None and own.max_length in _NO_LENGTH:
        generation["max_new_tokens"] = MAX_NEW_TOKENS
    inputs = processor.prompts(list(conversations)).to(model.device)
    longest, most = inputs["input_ids"].shape[1], max_positions(model.config.text_config)
    if most is not None and longest >= most:
        raise ConversationError(
            f"the conversation has {longest} tokens and the language model takes {most}, its answer included: ask in a shorter "
            "one."
        )
    asked = generation.get("max_new_tokens", own.max_new_tokens)
    if most is not None and asked is not None:
        generation["max_new_tokens"] = min(asked, most - longest)
    out = model.generate(**inputs, **generation)  # type: ignore[misc]
    texts = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]
