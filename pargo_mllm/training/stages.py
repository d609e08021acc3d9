"""The two stages of ParGo's training, each told in a straight line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from pargo_mllm.language.lora import LoraSettings, add_lora
from pargo_mllm.loading import save_model
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.training.trainer.parts import describe_parts, freeze_all_but
from pargo_mllm.training.trainer.processes import is_first_process
from pargo_mllm.training.trainer.stage_trainer import Stage, train


def stage1(
    model: ParGoForConditionalGeneration,
    processor: ParGoProcessor,
    captions: Stage,
    folder: Path,
    say: Callable[[str], None] = print,
) -> list[dict[str, float]]:
    """Stage 1: encoder and language model frozen, the projector learns from coarse and detailed captions.

    Args:
        model: trained in place; ``folder`` gets it and the processor, as from_pretrained loads them. With several processes
            the first one has the trained model, and writes it.
        say: gets the lines that say what is frozen and what trains.

    Returns:
        The log of the loss.
    """
    torch.manual_seed(captions.settings.seed)
    freeze_all_but(model, "projector")
    say(f"stage 1: the projector learns from captions\n{describe_parts(model)}")
    log = train(model, replace(captions, title="stage 1: projector, captions"))
    if is_first_process():
        save(model, processor, folder)
    return log


def stage2(
    model: ParGoForConditionalGeneration,
    processor: ParGoProcessor,
    answers: Stage,
    lora: LoraSettings,
    folder: Path,
    say: Callable[[str], None] = print,
) -> tuple[torch.nn.Module, list[dict[str, float]]]:
    """Stage 2: encoder frozen, the projector and LoRA on the language model learn to answer; only answers give loss.

    ``folder`` gets the model with LoRA folded in, as from_pretrained loads it, and below ``adapter`` LoRA and projector alone.
    The other arguments are those of :func:`stage1`.

    Returns:
        The model with LoRA folded in (with several processes, in the first one), and the log of the loss.
    """
    torch.manual_seed(answers.settings.seed)
    freeze_all_but(model, "projector")
    adapted = add_lora(model, lora)
    say(f"stage 2: projector and LoRA learn to answer questions\n{describe_parts(adapted)}")
    log = train(adapted, replace(answers, title="stage 2: projector + LoRA, answers"))
    if not is_first_process():
        return adapted, log
    adapted.save_pretrained(str(folder / "adapter"))
    merged = adapted.merge_and_unload()
    save(merged, processor, folder)
    return merged, log


def save(model: ParGoForConditionalGeneration, processor: ParGoProcessor, folder: Path) -> None:
    """Write model and processor into one folder that from_pretrained loads."""
    save_model(model, processor, folder)
