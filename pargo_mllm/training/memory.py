"""How much memory training takes on each GPU, before it is tried.

Weights, gradients and optimizer states follow from the parameters and their dtypes; activations from a step on tensors without
memory (:mod:`pargo_mllm.training.activations`). The allocator's slack and the framework itself (1 to 2 GiB) come on top.

What is frozen has the dtype that it is kept in, what trains is in fp32. Under "ddp" every GPU holds all of it. Under "zero2" it
holds all weights; gradients and optimizer states are divided. Under "fsdp2" weights are divided too, but for the frozen
encoder; what a step gathers is a part of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pargo_mllm.configuration import ParGoConfig
from pargo_mllm.loss import LOGITS_AT_ONCE
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.training.activations import StepMemory, step_memory
from pargo_mllm.training.trainer.engines import ENGINES
from pargo_mllm.training.trainer.parts import count_parameters, part_of
from pargo_mllm.training.trainer.sharding import FROZEN_WHOLE

# bytes a trained parameter: its gradient; AdamW's two moments
GRADIENT, MOMENTS = 4, 8
# DDP sends gradients from buckets, copies of them; ZeRO's optimizer works on copies of the weights
BUCKET, COPY = 4, 4
GIB = 2**30


@dataclass(frozen=True)
class PartMemory:
    """One part of the model; bytes on one GPU."""

    part: str
    parameters: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes of the part on one GPU."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class MemoryEstimate:
    """All parts on one of ``gpus`` GPUs.

    Args:
        step: what a micro-batch holds beside weights and gradients.
        in_turn: bytes that gradients and activations do not take at once.
        bound: activations are not followed through this language model, but a rough bound.
    """

    engine: str
    gpus: int
    parts: tuple[PartMemory, ...]
    step: StepMemory
    in_turn: int = 0
    bound: bool = False

    @property
    def total(self) -> int:
        """The most bytes that one GPU holds at once."""
        return sum(part.total for part in self.parts) - self.in_turn

    def describe(self) -> str:
        """A table in GiB (in MiB where all is less than one), a line a part."""
        unit, size = ("GiB", GIB) if self.total >= GIB else ("MiB", 2**20)
        kinds = ("weights", "gradients", "optimizer", "activations", "total")
        lines = [f"{f'{unit} a GPU, {self.gpus} in all':<24}" + "".join(f"{kind:>13}" for kind in kinds)]
        for part in self.parts:
            lines.append(f"  {part.part:<22}" + "".join(f"{getattr(part, kind) / size:>13.2f}" for kind in kinds))
        sums = [sum(getattr(part, kind) for part in self.parts) for kind in kinds]
        sums[-1] = self.total
        lines.append(f"  {'all, at once':<22}" + "".join(f"{value / size:>13.2f}" for value in sums))
        if self.bound:
            lines.append("  activations are a rough bound: this language model cannot be followed without its weights")
        return "\n".join(lines)


def meta_model(config: ParGoConfig) -> ParGoForConditionalGeneration:
    """The model of a configuration without memory for its weights, its parts in the dtypes that they are loaded in."""
    with torch.device("meta"):
        model = ParGoForConditionalGeneration(config)
    model.model.vision_tower.to(config.dtype_of("vision_config"))
    model.model.projector.to(config.dtype_of("projector_config"))
    for part in (model.model.language_model, model.lm_head):
        part.to(config.dtype_of("text_config"))
    return model


def estimate_memory(
    model: ParGoForConditionalGeneration | PeftModel,
    gpus: int,
    micro_batch: int = 1,
    sequence_length: int = 1024,
    gradient_checkpointing: bool = True,
    engine: str = "ddp",
    labels: int | None = None,
    bf16: bool = True,
    accumulation: int = 1,
    like: MemoryEstimate | None = None,
) -> MemoryEstimate:
    """Memory of training on one GPU of several, with AdamW.

    Args:
        model: a ParGoForConditionalGeneration, bare or inside PEFT's, on any device ("meta" too), in the dtypes that it trains
            in; what trains is what requires a gradient.
        micro_batch: sequences a GPU and step, with one picture each.
        sequence_length: tokens of a sequence, those of the picture included.
        gradient_checkpointing: layers keep their input alone and are computed again.
        engine: "ddp", "zero2" or "fsdp2".
        labels: tokens of a micro-batch that give loss, on which alone the head runs; all but the pictures' when None.
        bf16: computed under autocast.
        accumulation: micro-batches a step; from the second one on, gradients are there before it.
        like: an estimate for other ``gpus`` with the same micro-batch: its activations are these.

    Raises:
        ValueError: for numbers that are not positive, or another engine.
    """
    counts = {"gpus": gpus, "micro_batch": micro_batch, "sequence_length": sequence_length, "accumulation": accumulation}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} is unknown; it must be one of {', '.join(ENGINES)}.")
    if like is None:
        step, bound = _step(model, micro_batch, sequence_length, labels, gradient_checkpointing, bf16, engine)
    else:
        step, bound = like.step, like.bound
    parts = []
    for part, (parameters, trained) in count_parameters(model).items():
        weights = sum(_bytes(weight) for name, weight in model.named_parameters() if part_of(name) == part)
        gradients, optimizer = GRADIENT * trained, MOMENTS * trained
        if engine == "ddp" and gpus > 1:
            gradients += BUCKET * trained
        if engine == "zero2":
            gradients, optimizer = _share(gradients, gpus), _share(optimizer + COPY * trained, gpus)
        if engine == "fsdp2":
            gradients, optimizer = _share(gradients, gpus), _share(optimizer, gpus)
            weights = weights if part == FROZEN_WHOLE else _share(weights, gpus)
        parts.append(PartMemory(part, parameters, trained, weights, gradients, optimizer, step.parts.get(part, 0)))
    if engine == "fsdp2" and gpus > 1:
        parts.append(PartMemory("gathered", 0, 0, _gathered(model), 0, 0, 0))
    alone = gpus == 1 and engine != "zero2" and accumulation == 1
    return MemoryEstimate(engine, gpus, tuple(parts), step, step.in_turn if alone else 0, bound)


def _step(
    model: Any, batch: int, length: int, labels: int | None, checkpointing: bool, bf16: bool, engine: str
) -> tuple[StepMemory, bool]:
    config: ParGoConfig = model.config
    length = max(length, config.num_image_tokens + 1)
    rows = batch * (length - config.num_image_tokens) if labels is None else max(1, min(labels, batch * length))
    try:
        # deepspeed's autocast is its own
        return step_memory(model, batch, length, rows, checkpointing, bf16, copies_kept=engine == "zero2"), False
    except Exception:
        # a family may compute with numbers, where there are only shapes
        return _bound(config, batch, length, rows, checkpointing), True


def _share(count: int, gpus: int) -> int:
    return -(-count // gpus)


def _gathered(model: torch.nn.Module) -> int:
    """Bytes that FSDP2 gathers at most: two layers (one computes, the next is on its way), and all that is in no layer."""
    inside: set[torch.nn.Parameter] = set()
    layers = [0]
    for name, module in model.named_modules():
        if isinstance(module, GradientCheckpointingLayer) and part_of(name) != FROZEN_WHOLE:
            layers.append(sum(map(_bytes, module.parameters())))
            inside.update(module.parameters())
    rest = sum(_bytes(p) for name, p in model.named_parameters() if p not in inside and part_of(name) != FROZEN_WHOLE)
    return 2 * max(layers) + rest


def _bytes(parameter: torch.nn.Parameter) -> int:
    return parameter.numel() * parameter.element_size()


def _bound(config: ParGoConfig, batch: int, length: int, rows: int, checkpointing: bool) -> StepMemory:
    """As :func:`step_memory`, for attention that keeps no matrix of scores: numbers of two bytes."""
    vision, projector, text = config.vision_config, config.projector_config, config.text_config
    parts = {
        "vision_tower": 2 * batch * config.num_visual_tokens * _layer_width(vision),
        "projector": 2 * _kept(projector, batch * config.num_image_tokens, checkpointing),
        "language_model": 2 * _kept(text, batch * length, checkpointing),
        # in fp32, their logarithms and two gradients
        "lm_head": 4 * 4 * min(rows * text.vocab_size, LOGITS_AT_ONCE),
    }
    return StepMemory(parts, 0)


def _kept(config, tokens: int, checkpointing: bool) -> int:
    """Numbers that a stack of layers keeps for its backward pass."""
    layers, inside = config.num_hidden_layers, tokens * _layer_width(config)
    return layers * tokens * config.hidden_size + inside if checkpointing else layers * inside


def _layer_width(config) -> int:
    """Numbers a token that a layer's maps keep: input, two norms, query, key, value, output, residual; the feed-forward's."""
    inside = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return 8 * config.hidden_size + 3 * inside
