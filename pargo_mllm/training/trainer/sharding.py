"""FSDP2: every process keeps a part of each tensor, and of its gradient and optimizer states.

The same on GPUs (NCCL) and on the CPU (gloo). Tensors that are not sharded pass through all of it unchanged.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from pargo_mllm.training.trainer.parts import part_of

FROZEN_WHOLE = "vision_tower"


def shard(model: nn.Module, device: str) -> nn.Module:
    """A copy of ``model`` whose tensors are sharded over all processes, layer by layer; what is left, together.

    The frozen encoder stays whole everywhere: it is small, and a process without pictures does not call it. ``model`` keeps
    its own tensors in the first process, where :func:`take_back` puts what was trained; in others it loses them.

    Args:
        model: the same in every process, on the CPU but for the encoder, which is where it computes.
        device: "cpu" or "cuda", where the shards go.
    """
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    # the copy has parameters of its own on the same memory: sharding copies each out of it
    parameters = {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in model.parameters()}
    copied = copy.deepcopy(model, parameters)
    whole = {parameter for name, parameter in copied.named_parameters() if part_of(name) == FROZEN_WHOLE}
    for name, module in copied.named_modules():
        if isinstance(module, GradientCheckpointingLayer) and part_of(name) != FROZEN_WHOLE:
            fully_shard(module, mesh=mesh)
    fully_shard(copied, mesh=mesh, ignored_params=whole)
    if dist.get_rank() > 0:
        model.to("meta")
    return copied


def take_back(sharded: nn.Module, model: nn.Module) -> None:
    """Put what was trained in a sharded copy into ``model``, in the first process. All processes take part."""
    trained = trained_state(sharded)
    if dist.get_rank() == 0:
        load_trained_state(model, trained)


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Whole tensors of what is not frozen, and buffers, on the CPU. All processes take part; the first one gets them."""
    left_out = _left_out(model)
    return _gathered({name: tensor for name, tensor in model.state_dict().items() if name not in left_out})


def load_trained_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Put tensors of :func:`trained_state` into a model, sharded or not.

    Raises:
        ValueError: if the model does not train exactly these tensors.
    """
    own = model.state_dict()
    if different := (own.keys() - _left_out(model)) ^ state.keys():
        raise ValueError(f"{min(different)} is not in both, the trained tensors that were saved and those of the model.")
    model.load_state_dict({name: _shard_like(tensor, own[name]) for name, tensor in state.items()}, strict=False)


def _left_out(model: nn.Module) -> set[str]:
    """Names of frozen parameters, and further names of those that have several, as tied embeddings do."""
    first = dict(model.named_parameters())
    every = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in every if name not in first or not parameter.requires_grad}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its state with whole tensors, on the CPU. All processes take part; the first one gets it."""
    state = optimizer.state_dict()
    return {**state, "state": {index: _gathered(values) for index, values in state["state"].items()}}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put a state of :func:`optimizer_state` back; every process reads its own part of it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    indices = [index for group in state["param_groups"] for index in group["params"]]
    own = dict(zip(indices, parameters, strict=True))

    def back(index: int, value: torch.Tensor) -> torch.Tensor:
        return _shard_like(value, own[index]) if value.shape == own[index].shape else value

    values = {index: {name: back(index, value) for name, value in of_one.items()} for index, of_one in state["state"].items()}
    optimizer.load_state_dict({**state, "state": values})


def _gathered(tensors: dict[str, Any]) -> dict[str, Any]:
    first = not dist.is_initialized() or dist.get_rank() == 0
    found = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if first:
            found[name] = whole.detach().cpu()
    return found


def _shard_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
