"""The file a released checkpoint comes in: opened without running code from it, and its tensors taken out."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from pargo_mllm.errors import UserError


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message says why and what to do."""


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file, or of a .pth read with ``weights_only``.

    Raises:
        CheckpointError: if the file is absent, broken, or holds anything but tensors and plain containers.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; name the released checkpoint (.pth, .pt, .bin or .safetensors).")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(
            f"{path} was refused: it holds code or objects besides tensors, or is no checkpoint at all; nothing of it was run. "
            "If you trust it, open it where you may run its code, save its tensors alone with safetensors, and convert "
            f"that file. ({reason})"
        ) from error
    except Exception as error:  # what damaged bytes make an unpickler raise is without number
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{path} cannot be read as a checkpoint: it is damaged or not complete ({reason}).") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; it must hold a dict of tensors.")
    return plain_tensors(content)


def plain_tensors(state_dict: dict) -> dict[str, torch.Tensor]:
    """The tensors by name: out of ``{"state_dict": …}`` or ``{"model": …}``, without a ``module.`` in front."""
    for container in ("state_dict", "model"):
        if isinstance(state_dict.get(container), dict):
            state_dict = state_dict[container]
    return {name.removeprefix("module."): value for name, value in state_dict.items() if isinstance(value, torch.Tensor)}


def fill(module: nn.Module, tensors: dict[str, torch.Tensor], part: str, released_name: Callable[[str], str]) -> None:
    """Give ``module``, built on the meta device, fp32 copies of ``tensors`` (by its own names).

    Args:
        part, released_name: for messages: what the module is, and a tensor's name in the release from its name here.

    Raises:
        CheckpointError: if a tensor is missing or has another shape than the others ask for.
    """
    expected = module.state_dict()
    missing = [released_name(name) for name in expected if name not in tensors]
    if missing:
        more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
        raise CheckpointError(
            f"the checkpoint lacks {len(missing)} tensors of the {part}: {', '.join(missing[:6])}{more}; it is not complete."
        )
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{released_name(name)} has shape {list(tensors[name].shape)} where the other tensors of the {part} ask for "
                f"{list(tensor.shape)}; the checkpoint is damaged."
            )
    copies = {name: tensors[name].detach().to(torch.float32, copy=True) for name in expected}
    module.load_state_dict(copies, assign=True)
