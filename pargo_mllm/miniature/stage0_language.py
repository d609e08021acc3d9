"""Stage 0b: a miniature language model learns to answer from facts told as text. No pixels are involved.

Where a picture will be, it finds slots. A slot holds one fact, as the sum of the embeddings of the fact's words, or nothing.
The facts stand in random slots, so the model learns to look for what it needs by content: the skill that a projector can then
feed with what it sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainerCallback

from pargo_mllm.data.feeding.conversations import EncodedConversation
from pargo_mllm.data.feeding.packing import pack, pad_packed
from pargo_mllm.miniature.order import in_order
from pargo_mllm.training.trainer.settings import StageSettings
from pargo_mllm.training.trainer.stage_trainer import Stage, train

NO_WORD = -1


@dataclass(frozen=True)
class ToldFacts:
    """Facts as word ids, one tuple a fact, and the conversations about them."""

    facts: list[tuple[int, ...]]
    conversations: list[EncodedConversation]


class FactReader(nn.Module):
    """A causal language model that reads facts where pictures will be. Only the language model is kept afterwards."""

    def __init__(self, language_model: PreTrainedModel, image_token_id: int):
        super().__init__()
        self.noise = 0.0
        self.language_model = language_model
        self.image_token_id = image_token_id

    def forward(self, input_ids, position_ids, attention_mask, facts, labels, **kwargs) -> Any:
        """The language model's output with its loss.

        Args:
            input_ids, position_ids, labels: int64 ``[B, L]``; ``attention_mask`` bool ``[B, 1, L, L]``.
            facts: int64 ``[B, slots, words]``, filled up with :data:`NO_WORD`; as many slots as image tokens in a row.
        """
        embeddings = self.language_model.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        words = embeddings(facts.clamp(min=0)) * (facts != NO_WORD).unsqueeze(-1)
        slots = words.sum(dim=2).flatten(0, 1)
        if self.training and self.noise:
            slots = slots + self.noise * embeddings.weight.std().detach() * torch.randn_like(slots)
        is_slot = (input_ids == self.image_token_id).unsqueeze(-1)
        inputs_embeds = embeddings(input_ids).masked_scatter(is_slot, slots)
        mask = torch.zeros(attention_mask.shape, dtype=inputs_embeds.dtype, device=inputs_embeds.device)
        mask = mask.masked_fill(~attention_mask, torch.finfo(mask.dtype).min)
        return self.language_model(
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            attention_mask=mask,
            labels=labels,
            use_cache=False,
            **kwargs,
        )


class NoiseRamp(TrainerCallback):
    """Slots grow noisy while the model learns: none in the first third, ``peak`` times the embeddings' spread at the end.

    What a projector gives is never exact. A model that reads facts through noise is one that a projector can learn to speak to.
    """

    def __init__(self, reader: FactReader, peak: float):
        self.reader = reader
        self.peak = peak

    def on_step_begin(self, args, state, control, **kwargs):
        """Set the noise of this step."""
        self.reader.noise = self.peak * min(1.0, max(0.0, 3 * state.global_step / state.max_steps - 1))


class FactDataset(Dataset):
    """Told facts, packed; the slots are drawn anew every time an item is taken.

    Raises:
        ValueError: if there are more facts than slots.
    """

    def __init__(self, told: list[ToldFacts], num_slots: int, image_token_id: int, seed: int):
        most = max(len(one.facts) for one in told)
        if most > num_slots:
            raise ValueError(f"num_slots={num_slots} is too few for {most} facts; use more tokens or tell fewer facts.")
        self.told = told
        self.rows = [pack(one.conversations, image_token_id) for one in told]
        self.num_slots = num_slots
        self.num_words = max(len(fact) for one in told for fact in one.facts)
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.told)

    def __getitem__(self, index: int) -> dict[str, Any]:
        slots = torch.full((self.num_slots, self.num_words), NO_WORD)
        where = torch.randperm(self.num_slots, generator=self.generator)
        for slot, fact in zip(where, self.told[index].facts, strict=False):
            slots[slot, : len(fact)] = torch.tensor(fact)
        return {"packed": self.rows[index], "facts": slots}


def train_language_model(
    language_model: PreTrainedModel,
    dataset: FactDataset,
    image_token_id: int,
    pad_token_id: int,
    settings: StageSettings,
    folder: Path,
    noise: float = 1.4,
    position: int = 0,
) -> list[dict[str, float]]:
    """Stage 0b: train ``language_model`` in place; ``noise`` is the peak of :class:`NoiseRamp`. Returns the log of the loss."""
    model = FactReader(language_model, image_token_id)
    title = "stage 0b: the LLM learns to answer"
    shown = in_order(dataset, settings)
    stage = Stage(shown, partial(_collate, pad_token_id), settings, folder, title, position)
    return train(model, stage, [NoiseRamp(model, noise)])


def _collate(pad_token_id: int, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    batch = pad_packed([item["packed"] for item in items], pad_token_id)
    return {**batch, "facts": torch.stack([item["facts"] for item in items])}
