"""Folding LoRA into the model it was trained on, checked by the logits."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from pargo_mllm.auto_map import PROCESSOR_FILE
from pargo_mllm.errors import UserError
from pargo_mllm.files import whole_folder
from pargo_mllm.language.lora import fold_in
from pargo_mllm.loading import open_config, open_processor, open_weights, save_model
from pargo_mllm.model_files import read_object, shapes, told
from pargo_mllm.modeling import ParGoForConditionalGeneration

# of the largest logit: what summing in another order may change in fp32
TOLERANCE = 1e-5
WEIGHTS = "adapter_model.safetensors"


class MergeError(UserError):
    """An adapter cannot be folded in; the message says why and what to do."""


def merge_adapter(adapter: Path, out: Path, base: Path | None = None) -> float:
    """Fold an adapter (LoRA and projector) into its base model; the result is a folder that from_pretrained loads.

    All happens in fp32: folding and the check of the logits, on a picture of noise and some text. What is written has the
    dtypes of the base model's weights, but for the projector, which trained in fp32 and stays so.

    Args:
        adapter: the folder that ``PeftModel.save_pretrained`` wrote.
        out: must not exist; gets the model, and the base model's processor where it has one.
        base: the model it was trained on; the one that the adapter names when None.

    Returns:
        The largest difference between logits before and after.

    Raises:
        MergeError, ModelFolderError: if a folder, a file or a tensor is missing or damaged, or the logits differ by more than
            :data:`TOLERANCE`, relative to the largest of them where that exceeds 1.
    """
    if out.exists():
        raise MergeError(f"{out} exists; choose another folder, or remove it.")
    for name in ("adapter_config.json", WEIGHTS):
        if not (adapter / name).is_file():
            raise MergeError(f"{adapter} has no {name}; give the folder that save_pretrained of the adapted model wrote.")
    settings = _adapter_settings(adapter)
    base = base or Path(str(settings.base_model_name_or_path or ""))
    if not (base / "config.json").is_file():
        raise MergeError(f"the base model {str(base)!r} is no model folder; say where it is with --base.")
    config = open_config(base)
    processor = open_processor(base, config) if (base / PROCESSOR_FILE).is_file() else None
    model = open_weights(base).eval()
    dtypes = {name: tensor.dtype for name, tensor in _tensors(model) if not name.startswith("model.projector.")}
    adapted = _load(model.float(), adapter, settings)

    probe = _probe(model.config)
    # settings that PEFT takes and stumbles over later
    with told(adapter / "adapter_config.json", MergeError):
        with torch.inference_mode():
            before = adapted(**probe).logits
        merged = fold_in(adapted)
    with torch.inference_mode():
        after = merged(**probe).logits
    difference, scale = (after - before).abs().max().item(), max(1.0, before.abs().max().item())
    if not difference <= TOLERANCE * scale:
        raise MergeError(
            f"the logits changed by {difference:.3g} where {TOLERANCE * scale:.3g} is allowed: {adapter} does not belong to "
            f"{base}, or its weights are too large to fold in."
        )
    for name, tensor in _tensors(merged):
        tensor.data = tensor.data.to(dtypes.get(name, torch.float32))
    with whole_folder(out) as aside:
        save_model(merged, processor, aside)
    return difference


def _tensors(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [
        (name, tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_floating_point()
    ]


def _adapter_settings(adapter: Path) -> LoraConfig:
    file = adapter / "adapter_config.json"
    read_object(file, MergeError)
    with told(file, MergeError):
        settings = PeftConfig.from_pretrained(str(adapter))
    if not isinstance(settings, LoraConfig):
        raise MergeError(f"{file}: peft_type={settings.peft_type!r} is no LoRA; only LoRA is folded in.")
    return settings


def _load(model: ParGoForConditionalGeneration, adapter: Path, settings: LoraConfig) -> PeftModel:
    """The model with the adapter's weights, all of them: PEFT itself goes on with random ones where some are missing."""
    rows = max((max(shape, default=1) for shape in shapes(adapter / WEIGHTS, MergeError).values()), default=1)
    with told(adapter / "adapter_config.json", MergeError):
        for rank in (settings.r, *(settings.rank_pattern or {}).values()):
            if not 1 <= rank <= rows:
                raise ValueError(f"r={rank} is no rank of tensors with at most {rows} rows or columns")
        adapted = get_peft_model(model, settings).eval()
    with told(adapter / WEIGHTS, MergeError):
        weights = load_file(adapter / WEIGHTS)
    needed = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    missing, unknown = sorted(needed - weights.keys()), sorted(weights.keys() - needed)
    if missing or unknown:
        lacking = f"lacks {len(missing)} tensors, {missing[0]} the first" if missing else ""
        spare = f"holds {len(unknown)} tensors of no layer, {unknown[0]} the first" if unknown else ""
        raise MergeError(f"{adapter / WEIGHTS} {' and '.join(filter(None, (lacking, spare)))}; save the adapter again.")
    with told(adapter / WEIGHTS, MergeError):
        set_peft_model_state_dict(adapted, weights)
    return adapted


def _probe(config) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    side = config.vision_config.image_size
    text = torch.randint(0, config.text_config.vocab_size, (1, 16), generator=generator)
    # the image token stands for pictures only
    text[text == config.image_token_id] = 0 if config.image_token_id else 1
    image = torch.full((1, config.num_image_tokens), config.image_token_id)
    return {
        "input_ids": torch.cat((image, text), dim=1),
        "pixel_values": torch.randn(1, 3, side, side, generator=generator),
    }
