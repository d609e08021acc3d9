"""The two stages of ParGo's training, each told in a straight line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel

from pargo_mllm.language.lora import LoraSettings, add_lora, describe_adapted, fold_in
from pargo_mllm.loading import save_model
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.training.trainer.parts import describe_parts, freeze_all_but
from pargo_mllm.training.trainer.precision import keep_trained_in_fp32
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
    prepare(model, 1)
    say(f"stage 1: the projector learns from captions\n{describe_parts(model)}")
    log = train(model, replace(captions, title="stage 1: projector, captions"))
    if is_first_process():
        save(model, processor, folder)
    return log


def stage2(
    model: ParGoForConditionalGeneration,
    processor: ParGoProcessor,
    answers: Stage,
    lora: LoraSettings | None,
    folder: Path,
    say: Callable[[str], None] = print,
) -> tuple[torch.nn.Module, list[dict[str, float]]]:
    """Stage 2: encoder frozen, the projector and LoRA on the language model learn to answer; only answers give loss.

    ``folder`` gets the model with LoRA folded in, as from_pretrained loads it, and below ``adapter`` LoRA and projector alone.
    The other arguments are those of :func:`stage1`.

    Args:
        lora: None trains the whole language model and its head in place of LoRA; ``folder`` gets them in fp32, and no
            ``adapter``.

    Returns:
        The trained model, LoRA folded in (with several processes, in the first one), and the log of the loss.
    """
    torch.manual_seed(answers.settings.seed)
    trained = prepare(model, 2, lora)
    if not isinstance(trained, PeftModel):
        say(f"stage 2: projector and language model learn to answer questions\n{describe_parts(trained)}")
        log = train(trained, replace(answers, title="stage 2: projector + language model, answers"))
        if is_first_process():
            save(model, processor, folder)
        return trained, log
    say(f"stage 2: projector and LoRA learn to answer questions\n{describe_parts(trained)}\n{describe_adapted(trained)}")
    log = train(trained, replace(answers, title="stage 2: projector + LoRA, answers"))
    if not is_first_process():
        return trained, log
    trained.save_pretrained(str(folder / "adapter"))
    merged = fold_in(trained)
    save(merged, processor, folder)
    return merged, log


def prepare(
    model: ParGoForConditionalGeneration, stage: int, lora: LoraSettings | None = None
) -> ParGoForConditionalGeneration | PeftModel:
    """A model as a stage trains it: the rest frozen in the dtypes that it has, what trains in fp32. Changed in place.

    Args:
        model: on any device, "meta" too.
        lora: of stage 2; None trains its whole language model.

    Raises:
        ValueError: for LoRA on what is not there.
    """
    whole = stage == 2 and lora is None
    freeze_all_but(model, "projector", *(("language_model", "lm_head") if whole else ()))
    trained = model if stage == 1 or lora is None else add_lora(model, lora)
    keep_trained_in_fp32(trained)
    if whole:
        # tensors of a folder are windows on its file: the few that are left would keep all of it in memory
        for part in (model.model.vision_tower, model.model.projector):
            for tensor in (*part.parameters(), *part.buffers()):
                tensor.data = tensor.data.clone()
    return trained


def save(model: ParGoForConditionalGeneration, processor: ParGoProcessor, folder: Path) -> None:
    """Write model and processor into one folder that from_pretrained loads."""
    save_model(model, processor, folder)
