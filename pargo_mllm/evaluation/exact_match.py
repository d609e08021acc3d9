"""Greedy exact match, batched: all questions about a picture in one forward pass.

Greedy decoding gives the expected answer if and only if, behind the question and every part of the answer, the most likely
next token is the answer's next token, its end token included. One forward over the answers checks all of that at once, and
gives what generate() would.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from tqdm.auto import tqdm

from pargo_mllm.data.feeding.datasets import ImageInputs, PackedCollator, PackedDataset
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
    questions: PackedDataset,
    kinds: list[list[str]],
    pad_token_id: int,
    *,
    batch_size: int = 64,
    hide_pictures: bool = False,
    title: str | None = None,
    position: int = 0,
) -> Score:
    """Count the questions that the model answers exactly.

    Args:
        questions: the questions with the right answers, packed by picture.
        kinds: the kind of each question, by picture, in the order in which they are packed.
        hide_pictures: no token may see the picture's tokens: what the text alone tells.
        title, position: of a progress bar; none without a title.
    """
    was_training, score = model.training, Score()
    model.eval()
    collate = PackedCollator(pad_token_id)
    starts = range(0, len(questions), batch_size)
    for first in tqdm(starts, desc=title, disable=title is None, unit="batch", position=position, dynamic_ncols=True):
        indices = range(first, min(first + batch_size, len(questions)))
        batch = {name: tensor.to(model.device) for name, tensor in collate([questions[index] for index in indices]).items()}
        labels = batch.pop("labels")[:, 1:]
        if hide_pictures:
            is_picture = batch["input_ids"] == model.config.image_token_id
            batch["attention_mask"] = hide(batch["attention_mask"], is_picture)
        logits = model(**batch).logits[:, :-1]
        # generate() never says it
        logits[..., model.config.image_token_id] = float("-inf")
        best = logits.argmax(-1)
        wrong = ((best != labels) & (labels != IGNORED)).cpu()
        for row, index in enumerate(indices):
            segments = questions.rows[index].segments[1:]
            for segment, kind in enumerate(kinds[index], start=1):
                score.add(kind, not bool(wrong[row, : len(segments)][segments == segment].any()))
    model.train(was_training)
    return score


def hide(attention_mask: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """``attention_mask`` bool ``[B, 1, L, L]`` in which nobody but themselves sees the tokens of ``hidden`` bool ``[B, L]``."""
    itself = torch.eye(hidden.shape[1], dtype=torch.bool, device=hidden.device)
    return attention_mask & (~hidden[:, None, None, :] | itself)


def shuffled(image_inputs: ImageInputs, count: int, seed: int = 0) -> ImageInputs:
    """Every picture's place taken by another one's: what the pictures themselves contribute."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    # a cycle through all pictures has no fixed point
    successor = {order[i]: order[(i + 1) % count] for i in range(count)}
    return lambda index: image_inputs(successor[index])
