"""What a training step holds beside weights and optimizer, found by running it on tensors without memory."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pargo_mllm.language.lora import expert_weights
from pargo_mllm.loss import LOGITS_AT_ONCE, summed_loss
from pargo_mllm.modeling import ParGoForConditionalGeneration

# layers that alike ones are followed through: what each further one adds, one more tells
FEW = 2


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one micro-batch beside weights, gradients and optimizer states.

    Args:
        parts: what each part keeps until its backward pass; of the head, the most that its logits take; of the language model,
            also what its layers take for a moment.
        in_turn: how much less than these and all gradients a step takes that begins without gradients: they come while
            activations go.
    """

    parts: dict[str, int]
    in_turn: int


def step_memory(
    model: ParGoForConditionalGeneration | PeftModel,
    batch: int,
    length: int,
    labels: int,
    checkpointing: bool,
    bf16: bool,
    copies_kept: bool = False,
) -> StepMemory:
    """Run a step of ``batch`` sequences of ``length`` tokens, each with a picture, on a copy of the model without memory.

    The frozen encoder runs first, and keeps nothing but its features.

    Args:
        model: on any device; what trains is what requires a gradient.
        labels: rows that the head runs on.
        checkpointing: layers keep their input alone.
        bf16: under autocast.
        copies_kept: until the backward pass autocast keeps the copies of trained weights that it makes.
    """
    bare: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    gradients = sum(4 * weight.numel() for weight in bare.parameters() if weight.requires_grad)
    layers = _alike(bare.model.language_model)
    follow = partial(
        _follow,
        bare,
        batch=batch,
        length=length,
        labels=labels,
        checkpointing=checkpointing,
        bf16=bf16,
        copies_kept=copies_kept,
    )
    if layers is None or len(layers) <= 4 * FEW:
        found = follow(None)
    else:
        few = follow(FEW)
        more = follow(FEW + 1, encoded=few)
        found = replace(few, peak=few.peak + (len(layers) - FEW) * (more.peak - few.peak))
    logits = min(found.logits, found.peak - found.projector)
    parts = {
        "vision_tower": max(found.features, found.encoder - found.peak),
        "projector": found.projector,
        "language_model": found.peak - found.projector - logits,
        "lm_head": logits,
    }
    return StepMemory(parts, max(0, min(gradients, found.peak) - found.both))


@dataclass(frozen=True)
class _Followed:
    """Bytes: the encoder's most, its features, what the projector keeps, the head's most, the most of all but gradients; and
    of a step that begins without gradients, what it takes beyond these or the gradients, whichever are more. ``shape`` and
    ``dtype`` are the features'."""

    shape: torch.Size
    dtype: torch.dtype
    encoder: int
    features: int
    projector: int
    logits: int
    peak: int
    both: int


def _alike(language_model: nn.Module) -> nn.ModuleList | None:
    """The layers of a language model that has nothing but layers of one shape, of which each keeps what another does."""
    lists = [module for name, module in language_model.named_children() if isinstance(module, nn.ModuleList)]
    if len(lists) != 1:
        return None
    shapes = {
        tuple((name, weight.shape, weight.dtype, weight.requires_grad) for name, weight in layer.named_parameters())
        for layer in lists[0]
    }
    return lists[0] if len(shapes) == 1 else None


def _follow(
    model: Any,
    layers: int | None,
    *,
    batch: int,
    length: int,
    labels: int,
    checkpointing: bool,
    bf16: bool,
    copies_kept: bool,
    encoded: _Followed | None = None,
) -> _Followed:
    """The step, through so many layers of the language model; through all of them when None. The encoder need not be followed
    again where it was ``encoded`` before."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    copied = _without_memory(model, mode, layers)
    if checkpointing:
        # drawing random numbers again takes none
        copied.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    copied.train()
    _choose_nothing(copied)
    config, inner = copied.config, copied.model
    vision = config.vision_config
    weights = [*copied.parameters(), *copied.buffers()]
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=copies_kept)
    with mode:
        trained = [parameter for parameter in copied.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        if encoded is None:
            with _Held(weights) as held, torch.no_grad(), autocast:
                pixels = torch.empty(batch, vision.num_channels, vision.image_size, vision.image_size)
                features = inner.get_vision_features(pixels).clone()
            encoder = held.peak
        else:
            features, encoder = torch.empty(encoded.shape, dtype=encoded.dtype), encoded.encoder
        with _Held([*weights, *gradients, features]) as held:
            hooks = [parameter.register_post_accumulate_grad_hook(held.came) for parameter in trained]
            with autocast:
                tokens = inner._project(features)
                projector = held.now
                hidden = _through_language_model(inner, tokens, length)
                del tokens
                loss = _loss(copied.lm_head, *_labelled(hidden, labels), config.text_config.vocab_size)
                del hidden
            loss.backward()
            del loss
        for hook in hooks:
            hook.remove()
        rows = torch.empty(labels, config.text_config.hidden_size, dtype=inner.dtype, requires_grad=True)
        with _Held([*weights, *gradients, rows]) as head:
            with autocast:
                loss = _loss(copied.lm_head, *_labelled(rows, labels), config.text_config.vocab_size)
            loss.backward()
    alone = max(held.peak, sum(gradient.nbytes for gradient in gradients))
    in_turn = max(0, held.peak_with_coming - alone)
    return _Followed(features.shape, features.dtype, encoder, features.nbytes, projector, head.peak, held.peak, in_turn)


def _loss(head: nn.Module, rows: torch.Tensor, targets: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Of so many parts of the rows that one more would take no more memory: each is computed after the other."""
    most = FEW * max(1, LOGITS_AT_ONCE // vocab_size)
    return summed_loss(head, rows[:most], targets[:most], vocab_size)


def _through_language_model(model: Any, tokens: torch.Tensor, length: int) -> torch.Tensor:
    embedded = model.get_input_embeddings()(torch.zeros(len(tokens), length, dtype=torch.int64))
    embedded = torch.cat((tokens.to(embedded.dtype), embedded[:, tokens.shape[1] :]), dim=1)
    return model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state


def _choose_nothing(model: nn.Module) -> None:
    """Which expert takes a token depends on numbers, and there are none: one takes all tokens that any would."""
    names: dict[str, list[str]] = {}
    for name in expert_weights(model):
        path, _, own = name.rpartition(".")
        names.setdefault(path, []).append(own)
    for path, own_names in names.items():
        module: Any = model.get_submodule(path)
        module.forward = partial(_one_expert, module, own_names, module.forward)


def _one_expert(
    module: nn.Module, weights: list[str], forward: Callable[..., Any], hidden: torch.Tensor, *choice: torch.Tensor
) -> torch.Tensor:
    if not choice:
        return forward(hidden)
    inside = hidden.flatten(0, -2).repeat(choice[0].shape[-1], 1)
    for name in weights:
        weight = getattr(module, name)[0]
        weight = weight if getattr(module, "is_transposed", False) else weight.T
        if inside.shape[-1] == 2 * len(weight):
            # a gate beside what it opens
            gate, inside = inside.chunk(2, dim=-1)
            inside = nn.functional.silu(gate) * inside
        inside = inside @ weight
    return inside.unflatten(0, (choice[0].shape[-1], -1)).sum(0).view_as(hidden).to(hidden.dtype)


def _labelled(hidden: torch.Tensor, labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    return hidden.flatten(0, -2)[torch.arange(labels)], torch.zeros(labels, dtype=torch.int64)


def _without_memory(model: Any, mode: FakeTensorMode, layers: int | None) -> Any:
    """A copy whose tensors have shapes and dtypes and nothing else; with so many layers of the language model."""
    memo: dict[int, Any] = {}
    with mode:
        for weight in model.parameters():
            memo[id(weight)] = nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype), weight.requires_grad)
        for module in model.modules():
            for tensor in (*module._buffers.values(), *vars(module).values()):
                if isinstance(tensor, torch.Tensor):
                    memo.setdefault(id(tensor), torch.empty(tensor.shape, dtype=tensor.dtype))
    if layers is not None and (whole := _alike(model.model.language_model)) is not None:
        memo[id(whole)] = nn.ModuleList([copy.deepcopy(layer, memo) for layer in whole[:layers]])
    return copy.deepcopy(model, memo)


class _Held(TorchDispatchMode):
    """Bytes of tensors that stand, and the most of them, but for those that are known."""

    def __init__(self, known: list[torch.Tensor]):
        super().__init__()
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._sizes: dict[int, int] = {}
        self._came = 0
        self.now = self.peak = self.peak_with_coming = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._known and key not in self._sizes:
                    self._sizes[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._free, key)
        self.peak = max(self.peak, self.now)
        self.peak_with_coming = max(self.peak_with_coming, self.now + self._came)
        return out

    def came(self, parameter: torch.Tensor) -> None:
        """A gradient is there."""
        self._came += parameter.nbytes

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
