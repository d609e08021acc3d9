"""``pargo convert-release``: a released checkpoint and the language model it was trained on become one folder of ours."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPImageProcessorPil, PreTrainedModel

from pargo_mllm.assembly import take_generation_settings
from pargo_mllm.checkpoints.container import CheckpointError, read_checkpoint
from pargo_mllm.checkpoints.released_lora import fold_released_lora, is_lora
from pargo_mllm.checkpoints.released_projector import convert_released_projector, used_by_projector
from pargo_mllm.checkpoints.released_vision_encoder import convert_released_vision_encoder, used_by_encoder
from pargo_mllm.configuration import ParGoConfig
from pargo_mllm.data.feeding.templates import IMAGE_TOKEN
from pargo_mllm.files import whole_folder
from pargo_mllm.language.families import family_of, prepare_tokenizer
from pargo_mllm.loading import load_whole, save_model
from pargo_mllm.model_files import check_files, told
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor

REPORT = "conversion.json"


@dataclass(frozen=True)
class ConversionReport:
    """What became of every tensor of the checkpoint; ``left_over`` names those that the model does not need."""

    vision_encoder: int
    projector: int
    lora: int
    lora_folded_into: list[str]
    left_over: list[str]
    parameters: dict[str, int]

    def __str__(self) -> str:
        lines = [
            f"used: {self.vision_encoder} tensors of the vision encoder, {self.projector} of the projector, {self.lora} of LoRA"
            f" (folded into {len(self.lora_folded_into)} weights)",
            "parameters: " + ", ".join(f"{part} {count:,}" for part, count in self.parameters.items()),
            f"left over: {len(self.left_over)} tensors",
        ]
        return "\n".join([*lines, *(f"  {name}" for name in self.left_over)])


def convert_release(
    checkpoint: Path,
    llm: Path,
    out: Path,
    num_partial_tokens: int = 288,
    num_attention_heads: int = 16,
    vision_heads: int = 16,
    image_size: int = 336,
    lora_alpha: float = 512,
    dtype: torch.dtype | str = "auto",
) -> ConversionReport:
    """Write a ParGoForConditionalGeneration with its processor to ``out``.

    Args:
        checkpoint: the released file: vision encoder, projector with ``llm_proj``, and LoRA factors where it has any.
        llm: a folder with the language model it was trained on, and its tokenizer.
        out: a new folder; it appears whole or not at all.
        num_partial_tokens, num_attention_heads: of the projector.
        vision_heads, image_size: of the encoder.
        lora_alpha: see :func:`fold_released_lora`.
        dtype: of the weights in ``out``; "auto" is the language model's.

    Raises:
        CheckpointError: if the parts are not complete or do not fit each other; nothing is written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"--out {out} exists and is not an empty folder; name a new one, or remove it.")
    if not (llm / "config.json").is_file():
        raise CheckpointError(f"--llm {llm} has no config.json; name the folder of the language model.")
    with tqdm(total=5, desc="convert-release", unit="step", file=sys.stderr) as bar:

        def step(done: str) -> None:
            bar.set_postfix_str(done)
            bar.update(1)

        tensors = read_checkpoint(checkpoint)
        step("checkpoint read")
        encoder = convert_released_vision_encoder(tensors, vision_heads, image_size)
        if not {"llm_proj.weight", "llm_proj.bias"} <= set(tensors):
            raise CheckpointError(f"{checkpoint} has no llm_proj; without the map to the language model there is no model.")
        # names of the projector that nothing reads are left over, not an error
        own = {name: tensor for name, tensor in tensors.items() if used_by_projector(name)}
        projector = convert_released_projector(own, num_partial_tokens, num_attention_heads)
        step("encoder and projector converted")
        language_model, tokenizer = _load_language_model(llm, dtype)
        folded = fold_released_lora(tensors, language_model, lora_alpha)
        step("language model loaded")
        image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        model = _join(encoder, projector, language_model, image_token_id)
        take_generation_settings(model, language_model, tokenizer)
        report = ConversionReport(
            vision_encoder=sum(map(used_by_encoder, tensors)),
            projector=len(own),
            lora=sum(map(is_lora, tensors)),
            lora_folded_into=folded,
            left_over=sorted(n for n in tensors if not (used_by_encoder(n) or used_by_projector(n) or is_lora(n))),
            parameters={
                "vision encoder": encoder.num_parameters(),
                "projector": projector.num_parameters(),
                "language model": language_model.num_parameters(),
            },
        )
        step("parts joined")
        processor = ParGoProcessor(_image_processor(image_size), tokenizer, num_image_tokens=model.config.num_image_tokens)
        _write(model, processor, report, out)
        step("written")
    return report


def _load_language_model(llm: Path, dtype: torch.dtype | str):
    check_files(llm)
    language_model = load_whole(AutoModelForCausalLM, llm, CheckpointError, dtype=dtype)
    with told(f"the tokenizer of --llm {llm}", CheckpointError):
        tokenizer = AutoTokenizer.from_pretrained(llm, local_files_only=True, trust_remote_code=False)
        family = family_of(language_model.config, tokenizer)
    vocabulary = prepare_tokenizer(tokenizer, family)
    if vocabulary > language_model.config.vocab_size:
        language_model.resize_token_embeddings(vocabulary, pad_to_multiple_of=64, mean_resizing=False)
    return language_model, tokenizer


def _join(encoder, projector, language_model: PreTrainedModel, image_token_id: int) -> ParGoForConditionalGeneration:
    dtype = language_model.dtype
    config = ParGoConfig(
        vision_config=encoder.config,
        projector_config=projector.config,
        text_config=language_model.config,
        image_token_id=image_token_id,
    )
    config.dtype = dtype
    # the weights exist once already: the model is built without any and takes them over
    with torch.device("meta"):
        model = ParGoForConditionalGeneration(config)
    parts = {
        "model.vision_tower.": encoder.to(dtype),
        "model.projector.": projector.to(dtype),
        "model.language_model.": language_model.base_model,
        "lm_head.": language_model.get_output_embeddings(),
    }
    weights = {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    return model


def _image_processor(image_size: int):
    """The whole picture at the encoder's size, with CLIP's mean and deviation."""
    return CLIPImageProcessorPil(size={"height": image_size, "width": image_size}, do_center_crop=False)


def _write(model, processor, report: ConversionReport, out: Path) -> None:
    with whole_folder(out) as aside:
        save_model(model, processor, aside)
        (aside / REPORT).write_text(json.dumps(asdict(report), indent=1) + "\n")
