"""``pargo assemble``."""

from __future__ import annotations

import argparse
from collections import Counter

import torch
import transformers

from pargo_mllm.answering import answer, generation_settings
from pargo_mllm.assembly import model_and_processor
from pargo_mllm.errors import UserError
from pargo_mllm.files import whole_folder
from pargo_mllm.language.families import FAMILIES
from pargo_mllm.loading import save_model
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.pretrained import load_language_model, load_vision_model
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.training.recipes import parse_projector

QUESTION = "What is the capital of France?"


class AssemblyError(UserError):
    """Parts that cannot be put together as asked; the message names the argument."""


def run(options: argparse.Namespace) -> None:
    """Assemble, say what was chosen, ask a first question, and save."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.out.exists() or options.out.is_symlink():
        raise AssemblyError(f"--out: {options.out} exists; choose another folder, or remove it.")
    projector = parse_projector(options.projector)
    vision, image_processor = load_vision_model(options.vision_model, options.dtype)
    language, tokenizer = load_language_model(options.language_model, options.gguf, options.dtype)
    own = tokenizer.chat_template
    try:
        model, processor = model_and_processor(
            vision, language, tokenizer, image_processor, projector, options.template, options.seed
        )
    except UserError:
        raise
    except ValueError as error:
        raise AssemblyError(str(error)) from error
    print(_told(model, processor, own))
    (said,) = answer(
        model.eval(), processor, [[{"role": "user", "content": QUESTION}]], **generation_settings(max_new_tokens=24)
    )
    print(f"asked {QUESTION!r}, it says {said!r}")
    with whole_folder(options.out) as aside:
        save_model(model, processor, aside)
    print(f"{options.out}: model and processor")
    if next(model.model.language_model.parameters()).dtype == torch.float16:
        print("to train, assemble it with --dtype bfloat16 or float32: float16 is for answering alone")
    else:
        print(f"next: pargo train stage1 --model {options.out} --data … --output …")


def _told(model: ParGoForConditionalGeneration, processor: ParGoProcessor, own) -> str:
    template = processor.tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    (family,) = [one.name for one in FAMILIES if one.template == template] or [""]
    kept = "the tokenizer's own" if template == own else f"of {family}, in place of {'its own' if own else 'none'}"
    ends = processor.tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id)
    lines = [f"chat template: {kept}; an answer ends with {' or '.join(map(repr, ends))}"]
    parts = {
        "vision_tower": model.model.vision_tower,
        "projector": model.model.projector,
        "language_model": model.model.language_model,
        "lm_head": model.lm_head,
    }
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    for name, part in parts.items():
        sizes: Counter[torch.dtype] = Counter()
        for weight in part.parameters():
            sizes[weight.dtype] += weight.numel()
        dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in sizes)
        stored = sum(dtype.itemsize * count for dtype, count in sizes.items())
        line = f"  {name:<15} {type(part).__name__:<24} {sum(sizes.values()):>14,} parameters  {dtypes:<9}"
        line += f" {stored / 1e6:>10,.1f} MB"
        lines.append(line + ("  (the word embeddings)" if name == "lm_head" and tied else ""))
    return "\n".join(lines)
