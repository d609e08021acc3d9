"""Whether a language model reads a text the same whose beginning was read before, with others, in one batch."""

from __future__ import annotations

import torch

from pargo_mllm.answering.prefix_cache import joined, padded, positions, read_beginnings
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.row_masks import layer_kinds

# of the largest hidden state, in units of the dtype's precision: attention adds up in another order
TOLERANCE = 64
# of random text: lengths of two beginnings, and of what follows each
_BEGINNINGS, _RESTS = (4, 7), (5, 2)
_WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size", "local": "window_size"}


@torch.no_grad()
def what_sharing_changes(model: ParGoForConditionalGeneration) -> str | None:
    """Why beginnings must not be shared, or None where a text gets the hidden states that it gets alone.

    It runs a dozen tokens of random text. Windows are another matter: see :func:`narrowest_window`.
    """
    embeddings = model.get_input_embeddings()
    generator = torch.Generator().manual_seed(0)
    lengths = [beginning + rest for beginning, rest in zip(_BEGINNINGS, _RESTS, strict=True)]
    texts = [
        embeddings(torch.randint(0, model.config.text_config.vocab_size, (length,), generator=generator).to(model.device))
        for length in lengths
    ]
    name, base = type(model.model.language_model).__name__, model.model
    try:
        alone = [base(inputs_embeds=text[None], use_cache=False).last_hidden_state[0] for text in texts]
        cache, mask = joined(read_beginnings(base, [text[:first] for text, first in zip(texts, _BEGINNINGS, strict=True)]))
        rests, rest_mask = padded([text[first:] for text, first in zip(texts, _BEGINNINGS, strict=True)])
        whole = torch.cat([mask, rest_mask], 1)
        together = base(
            inputs_embeds=rests,
            attention_mask=whole,
            position_ids=positions(whole)[:, -rests.shape[1] :],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
    # whatever a decoder raises whose cache is another one
    except Exception as error:
        return f"{name}: {' '.join(str(error).split())}"
    differences = [
        (own[first:] - row[-rest:]).abs().max().item()
        for own, row, first, rest in zip(alone, together, _BEGINNINGS, _RESTS, strict=True)
    ]
    largest = max(1.0, *(own.abs().max().item() for own in alone))
    if max(differences) <= TOLERANCE * torch.finfo(together.dtype).eps * largest:
        return None
    return f"{name} reads a text otherwise behind a shared beginning: hidden states differ by {max(differences):.2g}"


def narrowest_window(model: ParGoForConditionalGeneration) -> float:
    """How many tokens a row may have, padding included, that no layer's window cuts; infinity where no layer has one."""
    config = model.config.text_config
    windows = [getattr(config, _WINDOWS[kind], None) for kind in layer_kinds(config) if kind in _WINDOWS]
    return min((window for window in windows if window), default=float("inf"))
