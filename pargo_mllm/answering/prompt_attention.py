"""What an answer looks at in its prompt: the language model's attention, while it says it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from pargo_mllm.modeling import ParGoForConditionalGeneration


class NoAttentionError(ValueError):
    """A model whose answers cannot be traced to patches; the message says why."""


@torch.no_grad()
def attention_to_prompt(model: ParGoForConditionalGeneration, inputs: Mapping[str, Any], said: list[int]) -> np.ndarray:
    """Attention from where an answer's tokens are decided to the prompt, fp32 ``[L]``: the mean over them, heads and layers.

    The prompt runs as it does for an answer; its last token and what is said then come one by one, as in generation, and only
    they have their weights kept: a whole prompt's would be its square, in every head of every layer.

    Args:
        inputs: of one conversation, as ``processor.prompts`` gives them, on the model's device.
        said: the answer's tokens but for the last one that counts.

    Raises:
        NoAttentionError: for a language model that keeps no attention weights.
    """
    was_training = model.training
    model.eval()
    try:
        return _step_by_step(model, inputs, said)
    finally:
        model.train(was_training)


def _step_by_step(model: ParGoForConditionalGeneration, inputs: Mapping[str, Any], said: list[int]) -> np.ndarray:
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    pictures = {name: tensor for name, tensor in inputs.items() if name not in ("input_ids", "attention_mask")}
    cache = model(
        input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True, logits_to_keep=1, **pictures
    ).past_key_values
    rows: list[np.ndarray] = []
    with _eager(model):
        for token in [ids[:, -1:], *(torch.tensor([[one]], device=ids.device) for one in said)]:
            if rows:
                mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            out = model(
                input_ids=token,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                output_attentions=True,
                logits_to_keep=1,
            )
            rows.append(_to_prompt(out.attentions, ids.shape[1], mask.shape[1]))
            cache = out.past_key_values
    return np.mean(rows, axis=0)


def _to_prompt(attentions: Any, prompt: int, length: int) -> np.ndarray:
    """What one position looks at, the mean over heads and layers: of ``length`` positions the first ``[prompt]``."""
    layers = [layer[0, :, -1].float().mean(dim=0).cpu().numpy() for layer in attentions or () if layer is not None]
    if not layers:
        raise NoAttentionError("the language model keeps no attention weights: its layers are recurrent")
    # a layer with a window keeps the last keys alone
    full = [np.pad(layer[-length:], (length - min(length, len(layer)), 0)) for layer in layers]
    return np.mean(full, axis=0)[:prompt]


@contextmanager
def _eager(model: ParGoForConditionalGeneration) -> Iterator[None]:
    """The language model computes its attention weights as such, and afterwards as it did before."""
    language: Any = model.model.language_model
    before = language.config._attn_implementation
    try:
        language.set_attn_implementation("eager")
    # transformers', for a class that has no such way
    except ValueError as error:
        raise NoAttentionError(f"the language model computes no attention weights as such: {error}") from error
    try:
        yield
    finally:
        language.set_attn_implementation(before)
