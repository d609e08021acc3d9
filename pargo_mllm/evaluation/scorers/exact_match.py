"""Greedy exact match, batched: all questions about a picture in one forward pass.

Greedy decoding gives the expected answer if and only if, behind the question and every part of the answer, the most likely
next token is the answer's next token, its end token included. One forward over the answers checks all of that at once, and
gives what generate() would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm.auto import tqdm

from pargo_mllm.data.feeding.collation import VISUAL, RowCollator
from pargo_mllm.data.feeding.packing import IGNORED
from pargo_mllm.modeling import ParGoForConditionalGeneration


@dataclass
class Score:
    """Right answers and questions by kind, in the order in which kinds appear."""

    right: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, is_right: bool) -> None:
        """Count one answer."""
        self.right[kind] = self.right.get(kind, 0) + is_right
        self.asked[kind] = self.asked.get(kind, 0) + 1

    def accuracy(self, kind: str) -> float:
        """Share of right answers to questions of one kind, 0...1."""
        return self.right[kind] / self.asked[kind]

    @property
    def mean(self) -> float:
        """The mean over kinds, 0...1: every kind counts the same however often it is asked."""
        return sum(self.accuracy(kind) for kind in self.asked) / max(1, len(self.asked))


@torch.no_grad()
def exact_match(
    model: ParGoForConditionalGeneration,
    items: Sequence[dict[str, Any]],
    pad_token_id: int,
    *,
    batch_size: int = 64,
    hide_pictures: bool = False,
    title: str | None = None,
    position: int = 0,
) -> Score:
    """Count the questions that the model answers exactly.

    Args:
        items: of :class:`~pargo_mllm.data.feeding.encoding.ExampleEncoder`, questions with the right answers and their kinds;
            those that it skipped count nothing.
        hide_pictures: no token may see the picture's tokens: what the text alone tells.
        title, position: of a progress bar; none without a title.
    """
    was_training, score = model.training, Score()
    model.eval()
    collate = RowCollator(pad_token_id, pack=False)
    starts = range(0, len(items), batch_size)
    for first in tqdm(starts, desc=title, disable=title is None, unit="batch", position=position, dynamic_ncols=True):
        given = [items[index] for index in range(first, min(first + batch_size, len(items)))]
        given = [item for item in given if "skipped" not in item]
        if not given:
            continue
        batch = collate(given)
        del batch["contents"]
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        labels = batch.pop("labels")[:, 1:]
        if hide_pictures:
            is_picture = batch["input_ids"] == model.config.image_token_id
            batch["attention_mask"] = hide(batch["attention_mask"], is_picture)
        logits = model(**batch).logits[:, :-1]
        # generate() never says it
        logits[..., model.config.image_token_id] = float("-inf")
        best = logits.argmax(-1)
        wrong = ((best != labels) & (labels != IGNORED)).cpu()
        for row, item in enumerate(given):
            segments = item["packed"].segments[1:]
            for segment, kind in enumerate(item["kinds"], start=1):
                score.add(kind, not bool(wrong[row, : len(segments)][segments == segment].any()))
    model.train(was_training)
    return score


def hide(attention_mask: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """``attention_mask`` bool ``[B, 1, L, L]`` in which nobody but themselves sees the tokens of ``hidden`` bool ``[B, L]``."""
    itself = torch.eye(hidden.shape[1], dtype=torch.bool, device=hidden.device)
    return attention_mask & (~hidden[:, None, None, :] | itself)


def shuffled(items: Sequence[dict[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Every picture's place taken by another one's: what the pictures themselves contribute."""
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed)).tolist()
    # a cycle through all pictures has no fixed point
    successor = {order[i]: order[(i + 1) % len(items)] for i in range(len(items))}
    return [
        {**item, **{name: items[successor[index]][name] for name in VISUAL if name in item}} for index, item in enumerate(items)
    ]
