"""A model with random weights that is trained in every way there is, and what a step of each computes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils import is_flash_attn_2_available

from bench.contest.against_dense import Results
from bench.contest.provider import Place
from bench.contest.timing import Step
from bench.problems.training import TrainingProblem
from bench.workloads.projector import BOUND, computed
from pargo_mllm.alignment.labels import THRESHOLD
from pargo_mllm.alignment.vocabulary import embedding_mean
from pargo_mllm.data.feeding.collation import RowCollator
from pargo_mllm.data.feeding.patch_labels import PATCHES
from pargo_mllm.language.lora import add_lora
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.projectors.base import ProjectorPreTrainedModel
from pargo_mllm.training.trainer.frozen_features import frozen_features
from pargo_mllm.training.trainer.parts import freeze_all_but, part_of
from pargo_mllm.training.trainer.patch_alignment import PatchAlignment

# AdamW computes all it always does, and the weights stay: every step of every way computes on the same ones
LEARNING_RATE = 0.0
MAX_GRAD_NORM = 1.0
WIDER = {torch.float32: torch.float64, torch.bfloat16: torch.float32}


@dataclass(frozen=True)
class TrainingWay:
    """The projector's attention, how examples stand in rows, the language model's attention, and the patch loss of stage 1."""

    projector: str
    rows: str
    attention: str = "sdpa"
    patches: bool = False

    def why_not_here(self, place: Place) -> str | None:
        """Why it cannot run at this place, or None."""
        if self.attention != "flash_attention_2":
            return None
        if not is_flash_attn_2_available():
            return "flash-attn is not installed, or sees no GPU"
        return None if place.half else f"flash attention does not compute in {place.dtype}"

    def collator(self, problem: TrainingProblem) -> RowCollator:
        """What makes the rows; padding is token 0."""
        layout = "documents" if self.rows == "documents" else "shared"
        return RowCollator(0, self.rows != "padded", problem.row_length, layout, problem.label_words)

    def __str__(self) -> str:
        more = ("" if self.attention == "sdpa" else f", {self.attention}") + (", patch loss" if self.patches else "")
        return f"{self.projector}, {self.rows}{more}"


# the dense one first: its error is what the others are held to
DENSE = TrainingWay("sdpa", "padded")
WAYS = (
    DENSE,
    TrainingWay("pargo", "padded"),
    TrainingWay("sdpa", "packed"),
    TrainingWay("pargo", "packed"),
    TrainingWay("pargo", "documents", "flash_attention_2"),
    TrainingWay(BOUND, "packed"),
)
PATCHED = TrainingWay("pargo", "packed", patches=True)


def ways_of(problem: TrainingProblem) -> tuple[TrainingWay, ...]:
    """Those that are measured of a problem; a projector without attention has no ways to compute it."""
    ways = WAYS if problem.projector == "pargo" else (DENSE, TrainingWay("pargo", "packed"))
    return (*ways, PATCHED) if problem.stage == 1 else ways


class Trainee:
    """A model with random weights as ``pargo train`` trains it: frozen weights in the run's dtype, trained ones in fp32.

    In bf16 it computes under autocast. LoRA's weights are all random, so that its gradients have none that is zero by design.
    """

    def __init__(self, problem: TrainingProblem, place: Place):
        self.problem, self.place = problem, place
        torch.manual_seed(problem.seed)
        with place.device:
            self.base = ParGoForConditionalGeneration._from_config(problem.config, dtype=place.dtype)
        self.base.model.projector.float()
        if problem.gradient_checkpointing:
            # newer transformers call it activation checkpointing, older ones know no other name
            self.base.gradient_checkpointing_enable({"use_reentrant": False})
        freeze_all_but(self.base, "projector")
        self.model: Any = self.base
        if problem.stage == 2:
            self.model = add_lora(self.base, problem.model_size.lora)
        self.trained: dict[str, nn.Parameter] = {
            name: weight for name, weight in self.model.named_parameters() if weight.requires_grad
        }
        for name, weight in self.trained.items():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.02)
        # PEFT keeps a frozen copy beside the one that it trains
        projectors = (module for module in self.model.modules() if isinstance(module, ProjectorPreTrainedModel))
        self.projector = next(module for module in projectors if next(module.parameters()).requires_grad)
        embeddings = self.base.get_input_embeddings().weight.detach()
        self.patches = PatchAlignment(embeddings, embedding_mean(embeddings), 1.0, 1.0, 0.0, 1, 0, THRESHOLD, False, True)
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=LEARNING_RATE, fused=True)

    @property
    def lora_parameters(self) -> int:
        """Trained weights inside the language model."""
        return sum(weight.numel() for name, weight in self.trained.items() if part_of(name) == "language_model")

    def held_bytes(self) -> int:
        """Bytes of the weights and of the optimizer's states."""
        states = (value for state in self.optimizer.state.values() for value in state.values())
        return sum(tensor.nbytes for tensor in (*self.model.parameters(), *self.model.buffers(), *states))

    def batch(self, way: TrainingWay, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """The model's keyword arguments, and the labels of pictures' tokens for a way with the patch loss."""
        batch = way.collator(self.problem)(examples)
        del batch["contents"]
        labels = batch.pop(PATCHES, None)
        inputs: dict[str, Any] = {name: tensor.to(self.place.device) for name, tensor in batch.items()}
        if way.patches:
            inputs[PATCHES] = {
                name: value.to(self.place.device) if isinstance(value, torch.Tensor) else value
                for name, value in labels.items()
            }
        return inputs

    def step(self, way: TrainingWay, batch: dict[str, Any]) -> Step:
        """The frozen encoder, forward, backward, and clipping with AdamW as a step of the meter."""

        def step(mark: Callable[[], None]) -> torch.Tensor:
            # layers are computed again during the backward: the way holds for it too
            with self._computed(way):
                inputs = self._encoded(batch, self.place.half)
                mark()
                loss = self._loss(inputs, self.place.half)
                mark()
                loss.backward()
            mark()
            nn.utils.clip_grad_norm_(self.trained.values(), MAX_GRAD_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            mark()
            return loss.detach()

        return step

    def results(self, way: TrainingWay, batch: dict[str, Any], bf16: bool) -> tuple[float, Results]:
        """The loss, and the gradients of the projector and of LoRA, without dropout.

        Args:
            bf16: under autocast.
        """
        with self._computed(way), _without_dropout(self.model):
            loss = self._loss(self._encoded(batch, bf16), bf16)
            gradients = torch.autograd.grad(loss, list(self.trained.values()))
        parts: dict[str, list[torch.Tensor]] = {}
        for name, gradient in zip(self.trained, gradients, strict=True):
            parts.setdefault(part_of(name), []).append(gradient)
        return loss.item(), list(parts.values())

    def exact(self, batch: dict[str, Any]) -> tuple[float, Results]:
        """What the dense way gives in the next wider dtype, with the patch loss where the batch has its labels."""
        wider = WIDER[self.place.dtype]
        narrow = {weight: weight.dtype for weight in self.model.parameters()}
        for weight in narrow:
            weight.data = weight.data.to(wider)
        try:
            return self.results(DENSE, batch, bf16=False)
        finally:
            # loses nothing: every value came from there
            for weight, dtype in narrow.items():
                weight.data = weight.data.to(dtype)

    def tidy(self) -> None:
        """Free what a step that failed has left, and the memory that the allocator keeps for it."""
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.place.on_cuda:
            torch.cuda.empty_cache()

    def _encoded(self, batch: dict[str, Any], bf16: bool) -> dict[str, Any]:
        """The frozen encoder's features in place of the pixels, as the trainer puts them there."""
        rest = {name: tensor for name, tensor in batch.items() if name != "pixel_values"}
        return {**rest, "vision_features": frozen_features(self.base.model, batch["pixel_values"], bf16)}

    def _loss(self, inputs: dict[str, Any], bf16: bool) -> torch.Tensor:
        rest = {name: tensor for name, tensor in inputs.items() if name != PATCHES}
        with torch.autocast(self.place.device.type, torch.bfloat16, enabled=bf16):
            outputs = self.model(**rest, use_cache=False)
        if PATCHES not in inputs:
            return outputs.loss
        total, _ = self.patches.sums(outputs.image_hidden_states, inputs[PATCHES], None)
        return outputs.loss + total / inputs[PATCHES]["counted"]

    @contextmanager
    def _computed(self, way: TrainingWay) -> Iterator[None]:
        # not through the whole model: it would reset the copy of the projector that PEFT trains
        language_model = self.base.model.language_model
        before = language_model.config._attn_implementation
        language_model.set_attn_implementation(way.attention)
        try:
            with computed(self.projector, way.projector):
                yield
        finally:
            language_model.set_attn_implementation(before)


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Dropout differs from call to call; evaluation mode would switch gradient checkpointing off too."""
    rates = {module: module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    for module in rates:
        module.p = 0.0
    try:
        yield
    finally:
        for module, rate in rates.items():
            module.p = rate
