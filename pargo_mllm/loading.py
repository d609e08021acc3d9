"""A folder of a model and its processor: checked, then opened; and saved."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedModel

from pargo_mllm.auto_map import CONFIG_FILE, PROCESSOR_FILE
from pargo_mllm.configuration import ParGoConfig
from pargo_mllm.errors import UserError
from pargo_mllm.language.generation import make_savable
from pargo_mllm.model_files import (
    ModelFolderError,
    check_counts,
    check_files,
    listed,
    read_object,
    told,
    weight_shapes,
    wrong_tensors,
)
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor

GENERATION_FILE, TEMPLATE_FILE = "generation_config.json", "chat_template.jinja"
# a folder's own code is never run, and nothing is looked for elsewhere
_HERE_ONLY: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_OURS: dict[str, Any] = {"use_safetensors": True}
# of the generation settings
_SWITCHES = (
    "do_sample",
    "use_cache",
    "renormalize_logits",
    "remove_invalid_values",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "output_logits",
    "return_dict_in_generate",
)
_NUMBERS = (
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "max_time",
    "num_beams",
    "num_return_sequences",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "guidance_scale",
    "prompt_lookup_num_tokens",
)
# what reads a file on its own, where it is to be found out which one is broken
_READ_ALONE: dict[str, Callable[[Path], Any]] = {
    "tokenizer.json": lambda file: Tokenizer.from_file(str(file)),
    TEMPLATE_FILE: lambda file: file.read_text(encoding="utf-8"),
}
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# of the encoder's own; an image processor that makes larger ones does not belong to it
_MOST_PIXELS = 8


def check_model_folder(folder: str | os.PathLike) -> None:
    """Find out whether a folder holds the files of a ParGo model and its processor, without building anything.

    Raises:
        ModelFolderError: if it does not; it names the file.
    """
    _check_folder(Path(folder), (CONFIG_FILE, PROCESSOR_FILE))


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


def computes_bf16(device: str) -> bool:
    """Whether bf16 has instructions of its own there; emulated it is slower than fp32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # a torch that cannot tell runs in fp32
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def open_model(folder: str | os.PathLike, **options: Any) -> tuple[ParGoForConditionalGeneration, ParGoProcessor]:
    """The model and the processor of a folder.

    Args:
        options: of from_pretrained.

    Raises:
        ModelFolderError: if a file cannot be used, a tensor is missing, of another shape, of no layer or not finite, or model
            and processor do not fit; it names the file or the tensors.
    """
    folder = Path(folder)
    check_model_folder(folder)
    processor = open_processor(folder, open_config(folder))
    return _load_finite(ParGoForConditionalGeneration, folder, ModelFolderError, **_OURS, **options), processor


def open_config(folder: str | os.PathLike) -> ParGoConfig:
    """The configuration of a folder; weights and generation settings fit it. No tensor is read.

    Raises:
        ModelFolderError: as :func:`open_model`.
    """
    folder = Path(folder)
    _check_folder(folder, (CONFIG_FILE,))
    tensors = weight_shapes(folder)
    with told(folder / CONFIG_FILE):
        widest = max((max(shape, default=1) for shape in tensors.values()), default=1)
        check_counts(read_object(folder / CONFIG_FILE), len(tensors), widest)
        config = ParGoConfig.from_pretrained(folder, **_HERE_ONLY)
        with tempfile.TemporaryDirectory() as elsewhere:
            # what transformers loads and would not save is refused before anything is trained
            config.save_pretrained(elsewhere)
    if (folder / GENERATION_FILE).exists():
        with told(folder / GENERATION_FILE):
            _check_generation(GenerationConfig.from_pretrained(folder, local_files_only=True), config.text_config.vocab_size)
    _load(ParGoForConditionalGeneration, folder, ModelFolderError, device_map="meta", **_OURS)
    return config


def open_processor(folder: str | os.PathLike, config: ParGoConfig) -> ParGoProcessor:
    """The processor of a folder, which has prepared a first question for a model of this configuration.

    Raises:
        ModelFolderError: as :func:`open_model`.
    """
    folder = Path(folder)
    try:
        with told(f"the tokenizer or the image processor of {folder}"):
            processor = ParGoProcessor.from_pretrained(folder, **_HERE_ONLY)
    except ModelFolderError:
        # transformers does not say which file it read
        for name, read in _READ_ALONE.items():
            if (folder / name).is_file():
                with told(folder / name):
                    read(folder / name)
        raise
    _check_fit(folder, config, processor)
    return processor


def open_weights(folder: str | os.PathLike, **options: Any) -> ParGoForConditionalGeneration:
    """The model of a folder, which needs no processor.

    Args:
        options: of from_pretrained.

    Raises:
        ModelFolderError: as :func:`open_model`.
    """
    folder = Path(folder)
    open_config(folder)
    return _load_finite(ParGoForConditionalGeneration, folder, ModelFolderError, **_OURS, **options)


def load_whole(
    auto_class: Any, folder: str | os.PathLike, error_class: type[UserError] = ModelFolderError, **options: Any
) -> Any:
    """A model of transformers, every tensor of it out of the folder's files: where some are missing, ``from_pretrained`` itself
    goes on with random ones.

    Args:
        auto_class: one of transformers' Auto classes, or of its models.
        options: of from_pretrained.

    Raises:
        error_class: if the model cannot be loaded, or a tensor is missing, of another shape, of no layer or not finite.
    """
    folder = Path(folder)
    _load(auto_class, folder, error_class, device_map="meta")
    return _load_finite(auto_class, folder, error_class, **options)


def save_model(model: ParGoForConditionalGeneration, processor: ParGoProcessor | None, folder: str | os.PathLike) -> None:
    """Write a model, and its processor where it has one, into one folder that :func:`open_model` opens.

    Generation settings that transformers does not save are left out, with a warning.
    """
    make_savable(model.generation_config)
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)


def _check_folder(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise ModelFolderError(f"{folder} has no {name}; give a folder that holds a model and its processor.")
    check_files(folder)
    kind = read_object(folder / CONFIG_FILE).get("model_type")
    if kind != ParGoConfig.model_type:
        raise ModelFolderError(f"{folder} holds a model of type {kind!r}; give a folder with a ParGo model.")


def _load(auto_class: Any, folder: Path, error_class: type[UserError], **options: Any) -> PreTrainedModel:
    """``from_pretrained``, and what its report says; with ``device_map="meta"`` no tensor takes memory."""
    with told(folder, error_class), _quietly():
        model, report = auto_class.from_pretrained(
            folder,
            **{**_HERE_ONLY, **options},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    wrong = wrong_tensors(report)
    if report["unexpected_keys"]:
        wrong.append(f"have {listed(sorted(report['unexpected_keys']))} of no layer")
    if wrong:
        raise error_class(
            f"{folder}: the weights {', and '.join(wrong)}; they are not those of {CONFIG_FILE}: save the model again."
        )
    return model


def _load_finite(auto_class: Any, folder: Path, error_class: type[UserError], **options: Any) -> Any:
    model = _load(auto_class, folder, error_class, **options)
    broken = [name for name, tensor in model.state_dict().items() if tensor.dtype in _FLOATS and not _is_finite(tensor)]
    if broken:
        raise error_class(f"{folder}: {listed(broken)} of the weights hold numbers that are not finite; they are damaged.")
    return model


@contextmanager
def _quietly() -> Iterator[None]:
    """What transformers would log of the report, ours says."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


def _is_finite(tensor: torch.Tensor) -> bool:
    # a tenth of the time of isfinite
    return tensor.numel() == 0 or all(bool(end.isfinite()) for end in tensor.aminmax())


def _check_generation(generation: GenerationConfig, vocabulary: int) -> None:
    """Values that transformers loads as they are and stumbles over while it generates."""
    for name, value in generation.to_dict().items():
        if value is None:
            continue
        if name.endswith("_token_id") or name.endswith("suppress_tokens"):
            tokens = value if isinstance(value, list) else [value]
            if not all(type(token) is int and token < vocabulary for token in tokens):
                raise ValueError(f"{name}={value!r} must name tokens of the vocabulary, whole numbers below {vocabulary}")
        elif name in _SWITCHES and not isinstance(value, bool):
            raise ValueError(f"{name}={value!r} must be true or false")
        elif name in _NUMBERS and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"{name}={value!r} must be a number")


def _check_fit(folder: Path, config: ParGoConfig, processor: ParGoProcessor) -> None:
    """A first question about a picture, up to the model's own work."""
    side = config.vision_config.image_size
    fitting = {"num_image_tokens": config.num_image_tokens, "image_token_id": config.image_token_id}
    if processor.max_tiles > 1:
        fitting["tokens_per_tile"] = not config.projector_config.reads_tiles_together
    for name, expected in fitting.items():
        given = getattr(processor, name)
        if given != expected:
            raise ModelFolderError(f"{folder / PROCESSOR_FILE}: {name} is {given!r}, where the model needs {expected!r}.")
    last = max(processor.tokenizer.get_vocab().values())
    if last >= config.text_config.vocab_size:
        raise ModelFolderError(
            f"{folder}: the tokenizer has a token {last} and the model embeddings of {config.text_config.vocab_size} tokens; "
            "they do not belong together."
        )
    # not of the encoder's size: the processor must see to that
    picture = {"type": "image", "image": Image.new("RGB", (side + 1, side))}
    conversation: list[Any] = [{"role": "user", "content": [picture, {"type": "text", "text": "?"}]}]
    with told(f"the chat template of {folder} ({TEMPLATE_FILE})"):
        processor.apply_chat_template(conversation, add_generation_prompt=True)
        shown = processor.chat_format.prompt_tokens(conversation).count(processor.image_token_id)
        if shown != 1:
            raise ValueError(f"of a question about one picture it makes {shown} {processor.image_token}")
    with told(folder / PROCESSOR_FILE):
        for name in ("size", "crop_size"):
            for key, value in dict(getattr(processor.image_processor, name, None) or {}).items():
                if value is not None and not 0 < value <= _MOST_PIXELS * side:
                    raise ValueError(f"{name}.{key}={value!r} does not fit the encoder's pictures of {side} pixels")
        shape = tuple(processor.prompts([conversation])["pixel_values"].shape[1:])
        if shape != (3, side, side):
            raise ValueError(f"it makes pictures of shape {list(shape)}, and the encoder takes {[3, side, side]}")
