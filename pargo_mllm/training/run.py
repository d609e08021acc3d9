"""One run of a recipe, told in a straight line: check, say what will happen, train, leave a folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from tqdm.auto import tqdm
from transformers.utils import is_flash_attn_2_available

from pargo_mllm.configuration import ParGoConfig, expand_attention
from pargo_mllm.data.corpus import Corpus, shown
from pargo_mllm.data.open_corpus import is_list
from pargo_mllm.files import default_cache
from pargo_mllm.language.lora import LoraSettings, describe_adapted
from pargo_mllm.language.rows import what_rows_mix_up
from pargo_mllm.model_files import told
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.training.feature_store import FeatureStore, encode_corpus
from pargo_mllm.training.inputs import OpenedData, first_items, open_data, training_inputs
from pargo_mllm.training.memory import MemoryEstimate, estimate_memory, meta_model
from pargo_mllm.training.needs import check_lengths, check_projector_options, memory_problem, workers_problem
from pargo_mllm.training.patch_words import check_regions, labels_found, patch_words
from pargo_mllm.training.recipes import Recipe, RecipeError
from pargo_mllm.training.run_folder import MODEL, alone, begin, check_place, check_work, finish, is_finished
from pargo_mllm.training.stages import prepare, stage1, stage2
from pargo_mllm.training.start import Start, start_of
from pargo_mllm.training.trainer.engines import EngineError, check_installed, place
from pargo_mllm.training.trainer.parts import describe_parts
from pargo_mllm.training.trainer.processes import Processes, from_all
from pargo_mllm.training.trainer.settings import StageSettings
from pargo_mllm.training.trainer.stage_trainer import Stage
from pargo_mllm.training.trainer.trackers import TrackerError, check_tracker
from pargo_mllm.validation.before_training import mixed_frames, told_of

LOG = "training_log.json"


def run_recipe(
    recipe: Recipe,
    start: Start | None = None,
    dry_run: bool = False,
    say: Callable[[str], None] = tqdm.write,
    cache: Path | None = None,
    device: str | None = None,
    position: int = 0,
) -> None:
    """Train as a recipe says; what was killed goes on, what is finished is left alone.

    Every process of torchrun calls it. All check, the first one alone says and writes.

    Args:
        start: what to start from, where it is not the recipe's folder.
        dry_run: check and say everything, compute and write nothing.
        say: gets the lines.
        cache: where features of pictures are kept; :func:`pargo_mllm.files.default_cache` when None.
        device: "cpu" or "cuda"; the GPU where there is one when None.
        position: of the progress bar, where two runs work side by side.

    Raises:
        RecipeError, EngineError, TrackerError, ProcessesError, FolderError, CorpusError, PictureError: if it cannot run as
            asked; all but data of which nothing can be used is found before a model is loaded.
    """
    processes = Processes.of_environment()
    if not processes.is_first:
        say = _say_nothing
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("data", "output"):
        # a dry run needs neither
        if getattr(recipe, name) is None and not dry_run:
            raise RecipeError(f"--{name} is missing.")
    if recipe.output is not None:
        check_place(recipe.output)
    start = start or start_of(recipe, dry_run)
    data = None if recipe.data is None else open_data(recipe)
    if data is not None:
        say(data.describe())
        check_regions(recipe, data)
    settings = recipe.settings(None if data is None else len(data), device, processes.size)
    config = start.config()
    check_projector_options(recipe.projector or {}, config.projector_config.projector_type)
    check_lengths(recipe.max_length, config, start.tiles())
    model = _planned(recipe, config)
    if recipe.model is not None and recipe.projector is not None:
        say(f"the projector is fresh, in place of the one in {recipe.model}")
    adapted = f"\n{describe_adapted(model)}" if isinstance(model, PeftModel) else ""
    say(f"stage {recipe.stage}: {_story(recipe)}\n{describe_parts(model)}{adapted}")
    _say_memory(recipe, model, settings.bf16, processes, dry_run, device, say)
    _check_workers(recipe, dry_run, say)
    _check_packages(recipe, dry_run, say)
    if data is not None and recipe.output is not None:
        identity = {**recipe.identity(), "content": data.settings()}
        work = recipe.output.with_name(f".{recipe.output.name}.partial")
        if is_finished(recipe.output, identity):
            say(f"{recipe.output} is finished already; nothing is trained")
            if processes.is_first and not dry_run:
                # killed between the finished folder and the end
                shutil.rmtree(work, ignore_errors=True)
            return
        check_work(work, recipe.output, identity)
    if data is not None and recipe.check_data and processes.is_first:
        _say_unreadable(recipe, data, cache or default_cache(), say)
    if dry_run:
        say("dry run: nothing was computed")
        return
    assert data is not None
    assert recipe.output is not None
    say(_division(settings))
    if processes.size == 1 and "ACCELERATE_MIXED_PRECISION" in os.environ:
        say("accelerate's launcher started one process; to train with several, use torchrun")
    with ExitStack() as held:
        if processes.is_first:
            held.enter_context(alone(work))
            begin(work, identity)
            start.prepare()
        # the others begin when the first one is here
        held.enter_context(processes.joined(device, alone_too=recipe.engine != "ddp"))
        _train(recipe, start, data, settings, work, processes, say, cache or default_cache(), position)
        if processes.is_first:
            finish(work, recipe.output, identity)
            say(f"finished: {recipe.output} holds model and processor")


def _train(
    recipe: Recipe,
    start: Start,
    data: OpenedData,
    settings: StageSettings,
    work: Path,
    processes: Processes,
    say: Callable[[str], None],
    cache: Path,
    position: int,
) -> None:
    device = "cpu" if settings.use_cpu else "cuda"
    model, processor = start.load({**expand_attention(recipe.attention), "projector_config": recipe.projector_attention})
    place(model, recipe.engine, device)
    encode = _encoding(recipe, model, processor, settings.bf16, processes, cache)
    label, patches = patch_words(recipe, data, model, processor, settings.steps, say)
    inputs = training_inputs(recipe, data, processor, settings.steps, encode, _layout(recipe, model, say), label)
    items = first_items(inputs)
    if patches is not None:
        say(labels_found(recipe, items))
    tokens = sum(len(item["packed"]) for item in items) / len(items) * settings.batch_size
    say(
        f"{settings.steps:,} steps of {settings.batch_size} examples of {len(data):,}, about {tokens:,.0f} tokens a step "
        "(padding left out)"
    )
    # pictures are large, and training is long
    del items
    folder = work / MODEL
    more: dict[str, Any] = {"position": position, "held_out": inputs.held_out, "patches": patches}
    stage = Stage(inputs.train, inputs.collate, settings, work / "checkpoints", **more)
    if recipe.stage == 1:
        log = stage1(model, processor, stage, folder, say)
    else:
        _, log = stage2(model, processor, stage, _lora(recipe), folder, say)
    if processes.is_first:
        (folder / LOG).write_text(json.dumps([*log[:-1], {**log[-1], "data": data.counts()}]))


def _encoding(
    recipe: Recipe,
    model: ParGoForConditionalGeneration,
    processor: ParGoProcessor,
    bf16: bool,
    processes: Processes,
    cache: Path,
) -> Callable[[Corpus], Corpus]:
    """Gives corpora the features of their pictures where the recipe keeps them."""
    if not recipe.cache_features:
        return lambda corpus: corpus
    store = FeatureStore(cache / "features", model, bf16)
    return lambda corpus: encode_corpus(corpus, model, processor, store, processes.rank, processes.size, from_all)


def _layout(recipe: Recipe, model: ParGoForConditionalGeneration, say: Callable[[str], None]) -> str:
    """How conversations stand in rows: as :class:`~pargo_mllm.data.feeding.collation.RowCollator` calls it."""
    if recipe.attention == "flash_attention_2":
        return "documents"
    problem = what_rows_mix_up(model)
    if problem is None:
        return "shared"
    if recipe.pack:
        raise RecipeError(f"pack: true puts several conversations into a row, but {problem}; give pack: false.")
    say(f"every conversation has a row of its own: {problem}")
    return "documents"


def _division(settings: StageSettings) -> str:
    processes = "1 process" if settings.processes == 1 else f"{settings.processes} processes"
    return (
        f"engine {settings.engine}, {processes}: {settings.batch_size} examples a step = {settings.micro_batch} at once x "
        f"{settings.accumulation} in turn x {processes}"
    )


def _say_memory(
    recipe: Recipe, model, bf16: bool, processes: Processes, dry_run: bool, device: str, say: Callable[[str], None]
) -> None:
    estimate: MemoryEstimate | None = None
    before = 0
    for gpus in (1, 32) if dry_run else (processes.size,):
        micro_batch = recipe.micro_batch_size or max(1, recipe.batch_size // gpus)
        estimate = estimate_memory(
            model,
            gpus,
            micro_batch,
            recipe.max_length,
            recipe.gradient_checkpointing,
            recipe.engine,
            bf16=bf16,
            accumulation=max(1, recipe.batch_size // (micro_batch * gpus)),
            like=estimate if micro_batch == before else None,
        )
        before = micro_batch
        length = recipe.max_length
        say(f"memory under {recipe.engine}, {micro_batch} sequences of {length} tokens at once\n{estimate.describe()}")
        problem = memory_problem(estimate.total, device) if gpus == processes.size else None
        if problem is not None:
            # a rough bound refuses nothing
            say(f"to train here: {problem}")


def _say_unreadable(recipe: Recipe, data: OpenedData, cache: Path, say: Callable[[str], None]) -> None:
    """Say what will be skipped for its pictures; the other processes wait for the first one as they do for stage 0."""
    frames = []
    for part, corpus in zip(recipe.data or (), data.train, strict=True):
        if isinstance(part.source, Path):
            root = part.image_root or (recipe.image_root if is_list(part.source) else None)
            told = told_of(part.source, root, corpus.settings(), cache)
            frames.append(told.frames)
            say(f"{shown(str(part))}: {told.line}")
    warning = mixed_frames(frames)
    if warning is not None:
        say(f"warning: {warning}")


def _check_workers(recipe: Recipe, dry_run: bool, say: Callable[[str], None]) -> None:
    problem = workers_problem(recipe)
    # plans are made anywhere
    if problem is not None and not dry_run:
        raise RecipeError(problem)
    if problem is not None:
        say(f"to train here: {problem}")


def _check_packages(recipe: Recipe, dry_run: bool, say: Callable[[str], None]) -> None:
    try:
        check_installed(recipe.engine)
        check_tracker(recipe.report_to)
        if recipe.attention == "flash_attention_2" and not is_flash_attn_2_available():
            raise RecipeError(
                "attention='flash_attention_2' needs a GPU and flash-attn (pip install 'pargo[flash]'); give --attention sdpa "
                "where they are not."
            )
    except (EngineError, TrackerError, RecipeError) as error:
        # plans are made anywhere
        if not dry_run:
            raise
        say(f"to train: {error}")


def _say_nothing(line: str) -> None:
    pass


def _story(recipe: Recipe) -> str:
    trains = "the projector learns from captions"
    if recipe.stage == 2:
        trains = f"projector and {'LoRA' if recipe.tuning == 'lora' else 'language model'} learn to answer questions"
    length = f"{recipe.steps:,} steps" if recipe.steps is not None else f"{recipe.epochs} epochs"
    return f"{trains}; {length} of {recipe.batch_size} examples, learning rate {recipe.learning_rate:g}"


def _lora(recipe: Recipe) -> LoraSettings | None:
    return recipe.lora() if recipe.tuning == "lora" else None


def _planned(recipe: Recipe, config: ParGoConfig):
    """The model as the stage trains it, without memory for its weights."""
    # whatever the layers of a family object to
    with told("projector" if recipe.projector else "the model's configuration", RecipeError):
        model = meta_model(config)
    # what flash-attn keeps is what torch's keeps, and is planned where it is not installed
    attention = "sdpa" if recipe.attention == "flash_attention_2" else recipe.attention
    try:
        model.set_attn_implementation({**expand_attention(attention), "projector_config": recipe.projector_attention})
    except ValueError as error:
        # transformers names classes; a user chooses by the key
        parts = f"{type(model.model.vision_tower).__name__} or {type(model.model.language_model).__name__}"
        raise RecipeError(f"attention={recipe.attention!r} is not offered by {parts}; give --attention eager.") from error
    try:
        with torch.device("meta"):
            return prepare(model, recipe.stage, _lora(recipe))
    except ValueError as error:
        raise RecipeError(f"lora_target_modules: {error}") from error
