"""How much memory training takes on each GPU, before it is tried.

Weights, gradients and optimizer states follow from counts of parameters; activations are a rough bound for attention that
keeps no matrix of scores. Temporary buffers, the allocator's slack and the framework itself (1 to 2 GiB) come on top.

What is frozen is kept in bf16, what trains in fp32. Under "ddp" every GPU holds all of it. Under "zero2" it holds all weights;
gradients and optimizer states are divided. Under "fsdp2" weights are divided too, but for the frozen encoder; what a step
gathers is a part of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pargo_mllm.configuration import ParGoConfig
from pargo_mllm.loss import LOGITS_AT_ONCE
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.training.trainer.engines import ENGINES
from pargo_mllm.training.trainer.parts import count_parameters, part_of
from pargo_mllm.training.trainer.sharding import FROZEN_WHOLE

# bytes a parameter: frozen, trained; its gradient; AdamW's two moments
FROZEN, TRAINED, GRADIENT, MOMENTS = 2, 4, 4, 8
# DDP sends gradients from buckets, copies of them; ZeRO's optimizer works on copies of the weights
BUCKET, COPY = 4, 4
ACTIVATION = 2
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
    """All parts on one of ``gpus`` GPUs."""

    engine: str
    gpus: int
    parts: tuple[PartMemory, ...]

    @property
    def total(self) -> int:
        """Bytes on one GPU."""
        return sum(part.total for part in self.parts)

    def describe(self) -> str:
        """A table in GiB (in MiB where all is less than one), a line a part."""
        unit, size = ("GiB", GIB) if self.total >= GIB else ("MiB", 2**20)
        kinds = ("weights", "gradients", "optimizer", "activations", "total")
        lines = [f"{f'{unit} a GPU, {self.gpus} in all':<24}" + "".join(f"{kind:>13}" for kind in kinds)]
        for part in self.parts:
            lines.append(f"  {part.part:<22}" + "".join(f"{getattr(part, kind) / size:>13.2f}" for kind in kinds))
        sums = [sum(getattr(part, kind) for part in self.parts) for kind in kinds]
        lines.append(f"  {'all':<22}" + "".join(f"{value / size:>13.2f}" for value in sums))
        return "\n".join(lines)


def meta_model(config: ParGoConfig) -> ParGoForConditionalGeneration:
    """The model of a configuration without memory for its weights."""
    with torch.device("meta"):
        return ParGoForConditionalGeneration(config)


def estimate_memory(
    model: ParGoForConditionalGeneration | PeftModel,
    gpus: int,
    micro_batch: int = 1,
    sequence_length: int = 1024,
    gradient_checkpointing: bool = True,
    engine: str = "ddp",
) -> MemoryEstimate:
    """Memory of training on one GPU of several, in bf16 with AdamW.

    Args:
        model: a ParGoForConditionalGeneration, bare or inside PEFT's, on any device ("meta" too); what trains is what
            requires a gradient.
        micro_batch: sequences a GPU and step, with one picture each.
        sequence_length: tokens of a sequence, those of the picture included.
        gradient_checkpointing: layers keep their input alone and are computed again.
        engine: "ddp", "zero2" or "fsdp2".

    Raises:
        ValueError: for numbers that are not positive, or another engine.
    """
    for name, value in (("gpus", gpus), ("micro_batch", micro_batch), ("sequence_length", sequence_length)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} is unknown; it must be one of {', '.join(ENGINES)}.")
    config: ParGoConfig = model.config  # type: ignore[assignment]
    activations = _activations(config, micro_batch, sequence_length, gradient_checkpointing)
    parts = []
    for part, (parameters, trained) in count_parameters(model).items():
        weights = FROZEN * (parameters - trained) + TRAINED * (trained + _untrained_copy(model, part))
        gradients, optimizer = GRADIENT * trained, MOMENTS * trained
        if engine == "ddp" and gpus > 1:
            gradients += BUCKET * trained
        if engine == "zero2":
            gradients, optimizer = _share(gradients, gpus), _share(optimizer + COPY * trained, gpus)
        if engine == "fsdp2":
            gradients, optimizer = _share(gradients, gpus), _share(optimizer, gpus)
            weights = weights if part == FROZEN_WHOLE else _share(weights, gpus)
        parts.append(PartMemory(part, parameters, trained, weights, gradients, optimizer, activations.get(part, 0)))
    if engine == "fsdp2" and gpus > 1:
        parts.append(PartMemory("gathered", 0, 0, _gathered(model), 0, 0, 0))
    return MemoryEstimate(engine, gpus, tuple(parts))


def _share(count: int, gpus: int) -> int:
    return -(-count // gpus)


def _untrained_copy(model: torch.nn.Module, part: str) -> int:
    """Parameters of the copy that PEFT keeps of a module it trains in full."""
    of_part = ((name, p) for name, p in model.named_parameters() if part_of(name) == part)
    return sum(p.numel() for name, p in of_part if "original_module" in name.split("."))


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
    return (TRAINED if parameter.requires_grad else FROZEN) * parameter.numel()


def _activations(config: ParGoConfig, batch: int, length: int, checkpointing: bool) -> dict[str, int]:
    """Bytes by part. The encoder is frozen and keeps nothing; what stands behind the projector lets gradients through."""
    vision, projector, text = config.vision_config, config.projector_config, config.text_config
    visual = batch * config.num_visual_tokens * _layer_width(vision)
    tokens = batch * config.num_image_tokens
    sequence = batch * length
    # logits in bf16, in fp32 for the loss, and their gradient; so many at once
    logits = min(sequence * text.vocab_size, LOGITS_AT_ONCE) * (ACTIVATION + 4 + 4)
    return {
        "vision_tower": ACTIVATION * visual,
        "projector": ACTIVATION * _kept(projector, tokens, checkpointing),
        "language_model": ACTIVATION * _kept(text, sequence, checkpointing),
        "lm_head": logits,
    }


def _kept(config, tokens: int, checkpointing: bool) -> int:
    """Numbers that a stack of layers keeps for its backward pass."""
    layers, inside = config.num_hidden_layers, tokens * _layer_width(config)
    return layers * tokens * config.hidden_size + inside if checkpointing else layers * inside


def _layer_width(config) -> int:
    """Numbers a token that a layer's maps keep: input, two norms, query, key, value, output, residual; the feed-forward's."""
    return 8 * config.hidden_size + 3 * config.intermediate_size
