"""How much memory training takes on each GPU, before it is tried.

Weights, gradients and optimizer states follow from counts of parameters; activations are a rough bound for attention that
keeps no matrix of scores. Temporary buffers, the allocator's slack and the framework itself (1 to 2 GiB) come on top.

Under ZeRO stage 2 every GPU holds all weights; gradients and optimizer states of what trains are divided among them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from peft import PeftModel

from pargo_mllm.configuration import ParGoConfig
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.training.parts import count_parameters

# bytes: bf16 weights and gradients; AdamW in mixed precision keeps fp32 weights and two moments
WEIGHT, GRADIENT, OPTIMIZER = 2, 2, 12
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
        lines = [f"{unit + ' a GPU, ' + str(self.gpus) + ' in all':<24}" + "".join(f"{kind:>13}" for kind in kinds)]
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
) -> MemoryEstimate:
    """Memory of training on one GPU of several under ZeRO stage 2, in bf16 with AdamW.

    Args:
        model: a ParGoForConditionalGeneration, bare or inside PEFT's, on any device ("meta" too); what trains is what
            requires a gradient.
        micro_batch: sequences a GPU and step, with one picture each.
        sequence_length: tokens of a sequence, those of the picture included.
        gradient_checkpointing: layers keep their input alone and are computed again.

    Raises:
        ValueError: for numbers that are not positive.
    """
    for name, value in (("gpus", gpus), ("micro_batch", micro_batch), ("sequence_length", sequence_length)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
    config: ParGoConfig = model.config  # type: ignore[assignment]
    activations = _activations(config, micro_batch, sequence_length, gradient_checkpointing)
    parts = []
    for part, (parameters, trained) in count_parameters(model).items():
        shard = -(-trained // gpus)
        kept = activations.get(part, 0)
        parts.append(PartMemory(part, parameters, trained, WEIGHT * parameters, GRADIENT * shard, OPTIMIZER * shard, kept))
    return MemoryEstimate(gpus, tuple(parts))


def _activations(config: ParGoConfig, batch: int, length: int, checkpointing: bool) -> dict[str, int]:
    """Bytes by part. The encoder is frozen and keeps nothing; what stands behind the projector lets gradients through."""
    vision, projector, text = config.vision_config, config.projector_config, config.text_config
    visual = batch * config.num_visual_tokens * _layer_width(vision)
    tokens = batch * config.num_image_tokens
    sequence = batch * length
    # logits in bf16, in fp32 for the loss, and their gradient
    logits = sequence * text.vocab_size * (ACTIVATION + 4 + 4)
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
