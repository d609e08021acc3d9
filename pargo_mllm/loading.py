"""A folder of a model and its processor: checked, then opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from pargo_mllm.configuration import ParGoConfig
from pargo_mllm.errors import UserError
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor


class ModelFolderError(UserError):
    """A folder that holds no model with its processor, or a device that is not there."""


def check_model_folder(folder: Path, weights: bool = False) -> None:
    """Find out whether a folder holds a ParGo model and its processor, without loading anything.

    Args:
        weights: whether it must hold weights too.

    Raises:
        ModelFolderError: if it does not.
    """
    for name in ("config.json", "processor_config.json"):
        if not (folder / name).is_file():
            raise ModelFolderError(f"{folder} has no {name}; give a folder that holds a model and its processor.")
    if weights and not any(folder.glob("*.safetensors")):
        raise ModelFolderError(f"{folder} has no weights (*.safetensors).")
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ModelFolderError(f"{folder / 'config.json'} is no configuration: {error}.") from error
    if kind != ParGoConfig.model_type:
        raise ModelFolderError(f"{folder} holds a model of type {kind!r}; give a folder with a ParGo model.")


def chosen_device(asked: str) -> str:
    """ "cpu" or "cuda"; for "auto" the GPU where there is one.

    Raises:
        ModelFolderError: for a GPU that is not there.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise ModelFolderError(
            "--device cuda: torch finds no GPU here; use --device cpu, or install a torch built for your GPU."
        )
    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked


def open_model(folder: Path, **options: Any) -> tuple[ParGoForConditionalGeneration, ParGoProcessor]:
    """The model and the processor of a folder.

    Args:
        options: of from_pretrained.

    Raises:
        ModelFolderError: if it holds none.
    """
    check_model_folder(folder, weights=True)
    return ParGoForConditionalGeneration.from_pretrained(folder, **options), ParGoProcessor.from_pretrained(folder)
