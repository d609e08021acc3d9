"""The patch loss in a training step: what a trainer adds to the loss of captions, and what it logs of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from tqdm.auto import tqdm

from pargo_mllm.alignment.labels import token_labels
from pargo_mllm.alignment.loss import contrastive_patch_loss, cosine_patch_loss, directions, weight_at
from pargo_mllm.alignment.reading import read_shares
from pargo_mllm.alignment.words import mean_rows
from pargo_mllm.data.corpus import shown
from pargo_mllm.data.feeding.patch_labels import PATCHES
from pargo_mllm.projectors.attention import KeptAttention, attention_kept
from pargo_mllm.training.trainer.measured_trainer import MeasuredTrainer, bare_model

# in the log's entries, beside "loss", which is their weighted sum
CAPTION_LOSS, PATCH_LOSS = "caption_loss", "patch_loss"
# of the words without a spelling, and of the labels that do not fit, those of a step that are named
_NAMED = 5
# what is remembered of what was said, for each is said once
_MOST_TOLD = 10_000
# characters of what is said of a label
_SHOWN = 400


@dataclass(frozen=True)
class PatchAlignment:
    """What is added to the loss of captions.

    Args:
        embeddings: ``[vocabulary, C]``, the language model's, frozen and whole on one device; not copied.
        mean: fp32 ``[C]``, their mean.
        scale: what the model multiplies them by, and tokens of pictures not.
        weight: of the patch loss.
        ramp: the share of the steps over which the weight rises from 0.
        steps: of the run.
        read: how many tokens of an image, the last ones, are labelled by what they attend to.
        threshold, hard: as in :func:`~pargo_mllm.alignment.labels.token_labels`.
        contrastive: tokens are to be nearer to their words than to the other words of the micro-batch.
    """

    embeddings: torch.Tensor
    mean: torch.Tensor
    scale: float
    weight: float
    ramp: float
    steps: int
    read: int
    threshold: float
    hard: bool
    contrastive: bool

    def sums(
        self, tokens: torch.Tensor, patches: dict[str, Any], shares: list[torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the losses of a micro-batch's tokens, and how many have a label; in fp32 whatever autocast says.

        Args:
            tokens: ``[images, tokens, C]``.
            patches: of the micro-batch, see :func:`~pargo_mllm.data.feeding.patch_labels.join_patch_labels`.
            shares: of each image ``[read, n_v]``, what its last tokens read; None where none is asked for.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            mean = self.mean.to(tokens.device)
            vectors = mean_rows(self.embeddings, patches["ids"], patches["starts"]).to(tokens.device)
            words, labels = directions(vectors, mean), patches["labels"]
            weights = patches["weights"]
            if shares is not None:
                coverage = patches["coverage"]
                read = torch.stack([torch.nn.functional.pad(own, (0, coverage.shape[-1] - own.shape[-1])) for own in shares])
                weights = weights.clone()
                weights[:, -self.read :] = token_labels(coverage, read, self.threshold, self.hard)
            if not self.contrastive:
                return cosine_patch_loss(tokens, weights, words[labels], self.scale * mean)
            # [images, tokens, words]; places that hold no label add nothing to the first word
            said = weights.new_zeros(*weights.shape[:2], len(words))
            said.scatter_add_(-1, labels[:, None].expand_as(weights), weights)
            return contrastive_patch_loss(tokens, said, words[None], self.scale * mean)


class PatchAlignedTrainer(MeasuredTrainer):
    """A :class:`MeasuredTrainer` that adds the patch loss, where it is asked for.

    Like the loss of captions it is a mean over all micro-batches of a step in all processes: over the tokens that have a label,
    and those that attention may give one.

    Args:
        patches: what is added; None for nothing.
    """

    def __init__(self, *args, patches: PatchAlignment | None = None, **kwargs):
        self.patches = patches
        super().__init__(*args, **kwargs)
        self._counted: torch.Tensor | float = 1.0
        self._begun_steps = 0
        # of this process since the last log: caption loss; sum of the patch loss, and its tokens
        self._sums = torch.zeros(3, device=self.args.device)
        self._told: set[str] = set()

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device):
        """See :class:`MeasuredTrainer`."""
        batches, labels = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.patches is not None:
            self._begun_steps += 1
            found = [batch[PATCHES] for batch in batches if PATCHES in batch]
            counted = torch.tensor(float(sum(int(one["counted"]) for one in found)), device=device)
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(counted)
            self._counted = counted.clamp(min=1)
            self._tell("no labels of patches, for the tokenizer has no tokens for them", found, "unspelled")
            self._tell("pictures without labels of patches", found, "misfits")
        return batches, labels

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of captions, and the patch loss in its weight."""
        if self.patches is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        patches = inputs.pop(PATCHES, None)
        with self._attention_kept(patches) as kept:
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        self._sums[0] += loss.detach()
        if patches is not None and patches["weights"].shape[-1]:
            total, labelled = self.patches.sums(outputs.image_hidden_states, patches, self._shares(kept, inputs))
            self._sums[1] += total.detach()
            self._sums[2] += labelled
            weight = weight_at(self.state.global_step, self.patches.steps, self.patches.weight, self.patches.ramp)
            # gradients of processes are averaged
            loss = loss + weight * self.args.world_size * total / self._counted
        return (loss, outputs) if return_outputs else loss

    @property
    def judges(self) -> tuple[str, ...]:
        """See :class:`MeasuredTrainer`."""
        return super().judges if self.patches is None else (*super().judges, PATCH_LOSS)

    def judged(self, model: Any, inputs: dict[str, Any], labels: int) -> dict[str, tuple[float, int]]:
        """See :class:`MeasuredTrainer`; the patch loss beside it."""
        if self.patches is None:
            return super().judged(model, inputs, labels)
        patches = inputs.pop(PATCHES, None)
        with self._attention_kept(patches) as kept:
            outputs = self.judge(model, inputs)
        found = {"loss": (outputs.loss.item(), labels), PATCH_LOSS: (0.0, 0)}
        if patches is not None and patches["weights"].shape[-1]:
            total, labelled = self.patches.sums(outputs.image_hidden_states, patches, self._shares(kept, inputs))
            found[PATCH_LOSS] = total.item(), int(labelled)
        return found

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """See :class:`MeasuredTrainer`; both losses beside their weighted sum."""
        if self.patches is not None and "loss" in logs:
            sums = self._sums.double()
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(sums)
            caption, patch, tokens = sums.tolist()
            logs[CAPTION_LOSS] = caption / max(1, self._begun_steps) / self.args.world_size
            # where no token had a label there is no loss; 0 would read as a perfect one
            if tokens:
                logs[PATCH_LOSS] = patch / tokens
            self._sums.zero_()
            self._begun_steps = 0
        super().log(logs, *args, **kwargs)

    def _attention_kept(self, patches: dict[str, Any] | None):
        assert self.patches is not None
        if patches is None or not self.patches.read:
            return nullcontext()
        return attention_kept(self._projector(), self.patches.read)

    def _projector(self) -> Any:
        trained: Any = self.model
        return bare_model(trained).model.projector

    def _shares(self, kept: KeptAttention | None, inputs: dict[str, Any]) -> list[torch.Tensor] | None:
        if kept is None:
            return None
        projector = self._projector()
        tiles, features = inputs["vision_features"].shape[:2]
        counts = inputs["tile_counts"].tolist() if "tile_counts" in inputs else [1] * tiles
        together = projector.config.reads_tiles_together
        return read_shares(projector, kept, [count * features for count in counts] if together else [features] * tiles)

    def _tell(self, what: str, found: list[dict[str, Any]], key: str) -> None:
        """A line on what a step has of these that no step had before."""
        new = [one for one in dict.fromkeys(one for batch in found for one in batch[key]) if one not in self._told]
        if new and len(self._told) < _MOST_TOLD:
            self._told.update(new)
            tqdm.write(
                f"{len(new):,} {what}: {', '.join(shown(one, _SHOWN) for one in new[:_NAMED])}{', …' * (len(new) > _NAMED)}"
            )
