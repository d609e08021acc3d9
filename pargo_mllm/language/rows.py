"""Whether a language model keeps conversations apart that stand in one row."""

from __future__ import annotations

import torch

from pargo_mllm.data.feeding.packing import IGNORED, SHARED, PackedSequence, alone, join, pad_packed
from pargo_mllm.modeling import ParGoForConditionalGeneration

# of the largest hidden state, in units of the dtype's precision: attention adds up in another order
TOLERANCE = 64


@torch.no_grad()
def what_rows_mix_up(model: ParGoForConditionalGeneration) -> str | None:
    """Why conversations must not share rows, or None where a row gives each the hidden states that it has alone.

    It runs a few dozen tokens of random text. Layers with windows longer than that are known by their kind
    (:mod:`pargo_mllm.row_masks`).
    """
    row = join([_two_conversations(0, model), _two_conversations(1, model)])
    was_training = model.training
    model.eval()
    try:
        together = _states(model, row)
        apart = torch.cat([_states(model, one) for one in alone(row)])
    # whatever a decoder raises that is given a mask which it does not take
    except Exception as error:
        return f"{type(model.model.language_model).__name__}: {' '.join(str(error).split())}"
    finally:
        model.train(was_training)
    # alone, each conversation repeats its document's prefix
    places = torch.cat([_places(row, document, segment) for document in range(2) for segment in (1, 2)])
    allowed = TOLERANCE * torch.finfo(together.dtype).eps * max(1.0, apart.abs().max().item())
    difference = (together[places] - apart).abs().max().item()
    if difference <= allowed:
        return None
    return (
        f"{type(model.model.language_model).__name__} does not keep conversations apart that stand in one row: hidden states "
        f"differ by {difference:.2g}"
    )


def _states(model: ParGoForConditionalGeneration, row: PackedSequence) -> torch.Tensor:
    device = model.device
    batch = {name: value.to(device) for name, value in pad_packed([row], 0).items() if name != "labels"}
    return model.model(**batch, use_cache=False).last_hidden_state[0]


def _two_conversations(seed: int, model: ParGoForConditionalGeneration) -> PackedSequence:
    generator = torch.Generator().manual_seed(seed)
    prefix, lengths = 4, (5, 7)
    segments = torch.tensor([SHARED] * prefix + [1] * lengths[0] + [2] * lengths[1])
    positions = torch.tensor([*range(prefix), *(prefix + place for length in lengths for place in range(length))])
    ids = torch.randint(0, model.config.text_config.vocab_size, segments.shape, generator=generator)
    ids[ids == model.config.image_token_id] = 0 if model.config.image_token_id else 1
    ignored = torch.full_like(ids, IGNORED)
    return PackedSequence(ids, positions, torch.zeros_like(ids), segments, ignored)


def _places(row: PackedSequence, document: int, segment: int) -> torch.Tensor:
    here = (row.documents == document) & ((row.segments == SHARED) | (row.segments == segment))
    return here.nonzero()[:, 0]
