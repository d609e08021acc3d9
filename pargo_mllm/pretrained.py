"""Pretrained encoders and language models, from a folder, from a hub, or out of a GGUF file."""

from __future__ import annotations

import copy
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SiglipVisionModel,
)

from pargo_mllm.errors import UserError
from pargo_mllm.model_files import check_files, listed, told, wrong_tensors
from pargo_mllm.vision import Eva02VisionModel

# the vision half, of a folder that holds both halves too
_VISION: dict[str, Any] = {
    "clip": CLIPVisionModel,
    "clip_vision_model": CLIPVisionModel,
    "siglip": SiglipVisionModel,
    "siglip_vision_model": SiglipVisionModel,
    "eva02_clip_vision_model": Eva02VisionModel,
}
_NO_CODE: dict[str, Any] = {"trust_remote_code": False}


class PartError(UserError):
    """An encoder or a language model that cannot be used; the message names it and says why."""


def load_vision_model(source: str, dtype: str = "auto") -> tuple[PreTrainedModel, Any]:
    """An encoder and its image processor.

    Args:
        source: a folder, or a name on a hub.
        dtype: as from_pretrained takes it; "auto" for that of the weights.

    Raises:
        PartError: if it is no encoder that can be used, or tensors are missing.
    """
    _check_source(source, "vision model")
    with told(f"vision model {source}", PartError):
        kind = AutoConfig.from_pretrained(source, **_NO_CODE).model_type
    if kind not in _VISION:
        raise PartError(f"vision model {source} is of type {kind!r}; it must be one of {', '.join(_VISION)}.")
    # the text half of a folder that holds both is left where it is
    model = _whole(_VISION[kind], source, "vision model", dtype=dtype)
    with told(f"image processor of {source}", PartError):
        # with torchvision its pixels would be others
        return model, AutoImageProcessor.from_pretrained(source, backend="pil", **_NO_CODE)


def load_language_model(
    source: str, gguf: str | None = None, dtype: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer.

    Args:
        source: a folder, or a name on a hub.
        gguf: the name of a GGUF file there, which holds both; its weights are unpacked.
        dtype: as from_pretrained takes it; "auto" for that of the weights, and fp32 for those of a GGUF file.

    Raises:
        PartError: if it cannot be loaded, or tensors are missing.
    """
    _check_source(source, "language model")
    what = "language model"
    if gguf is None:
        model = _whole(AutoModelForCausalLM, source, what, dtype=dtype)
        with told(f"tokenizer of {source}", PartError):
            return model, AutoTokenizer.from_pretrained(source, **_NO_CODE)
    if Path(source).is_dir() and not (Path(source) / gguf).is_file():
        raise PartError(f"--gguf: {Path(source) / gguf} is no file.")
    if find_spec("gguf") is None:
        raise PartError("--gguf needs the package gguf: pip install 'pargo[gguf]'.")
    wanted = torch.float32 if dtype == "auto" else dtype
    model = _whole(AutoModelForCausalLM, source, what, dtype=wanted, gguf_file=gguf)
    with told(f"tokenizer of {Path(source) / gguf}", PartError):
        return unpacked(model), AutoTokenizer.from_pretrained(source, gguf_file=gguf, **_NO_CODE)


def _check_source(source: str, what: str) -> None:
    path = Path(source)
    if path.is_dir():
        check_files(path)
    elif path.exists() or path.is_absolute() or source.startswith("."):
        raise PartError(f"{what} {source} is no folder.")


def _whole(auto_class: Any, source: str, what: str, **options: Any) -> Any:
    with told(f"{what} {source}", PartError):
        model, report = auto_class.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, **_NO_CODE, **options
        )
    if wrong := wrong_tensors(report):
        raise PartError(f"{what} {source}: the weights {', and '.join(wrong)}; they are not those of its config.json.")
    # of a folder that holds two halves, the other one is no surprise
    unused = [] if auto_class in _VISION.values() else sorted(report["unexpected_keys"])
    if unused:
        warnings.warn(
            f"{what} {source}: {len(unused)} tensors of the weights are of no layer of its config.json, and are left out: "
            f"{listed(unused)}.",
            stacklevel=3,
        )
    return model


def unpacked(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that says nothing of its packing, which transformers would not save."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    # what is computed from the configuration is no weight, and is on no device yet
    for name, buffer in model.named_buffers():
        owner, _, leaf = name.rpartition(".")
        plain.get_submodule(owner).register_buffer(leaf, buffer, persistent=name in model.state_dict())
    plain.generation_config = model.generation_config
    return plain.eval()
