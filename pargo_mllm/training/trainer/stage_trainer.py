"""transformers' Trainer with a progress bar that tells which stage it is and a learning rate of its own for the projector."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import AutocastKwargs
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset, SequentialSampler
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.training_args import ParallelMode

from pargo_mllm.data.feeding.collation import RowCollator
from pargo_mllm.training.trainer.checkpoints import ASIDE, last_checkpoint, publish, settings_of
from pargo_mllm.training.trainer.engines import EngineError, check_engine
from pargo_mllm.training.trainer.guards import FiniteGradients, writing
from pargo_mllm.training.trainer.measured_trainer import bare_model, measurement, skipped_of
from pargo_mllm.training.trainer.patch_alignment import CAPTION_LOSS, PATCH_LOSS, PatchAlignedTrainer, PatchAlignment
from pargo_mllm.training.trainer.processes import forget_others, from_the_first, is_first_process, kept_environment
from pargo_mllm.training.trainer.settings import StageSettings
from pargo_mllm.training.trainer.sharding import (
    load_optimizer_state,
    load_trained_state,
    optimizer_state,
    shard,
    take_back,
    trained_state,
)
from pargo_mllm.training.trainer.trackers import LOGS, trackers

TRAINED = "trained.safetensors"


class StageProgress(TrainerCallback):
    """One bar a stage, with the running loss. ``position`` is its line where several processes train side by side."""

    def __init__(self, title: str, position: int = 0):
        self.title = title
        self.position = position

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar."""
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.title,
            position=self.position,
            unit="step",
            dynamic_ncols=True,
            disable=not state.is_world_process_zero,
        )

    def on_step_end(self, args, state, control, **kwargs):
        """Move it."""
        self.bar.update(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Show the loss, and what throughput says."""
        if logs and "loss" in logs:
            shown = {"loss": f"{float(logs['loss']):.3f}"}
            if "tokens_per_second" in logs:
                shown |= {"tokens/s": f"{logs['tokens_per_second']:,.0f}", "data": f"{logs['data_wait']:.0%}"}
            self.bar.set_postfix(shown, refresh=False)
        if logs and "eval_loss" in logs and state.is_world_process_zero:
            patches = f", patch loss {logs['eval_patch_loss']:.4f}" if "eval_patch_loss" in logs else ""
            tqdm.write(f"step {state.global_step}: held-out loss {logs['eval_loss']:.4f}{patches}")

    def on_train_end(self, args, state, control, **kwargs):
        """Close it."""
        self.bar.close()


class ParGoTrainer(PatchAlignedTrainer):
    """Trainer for stages.

    What is frozen stays out of optimizer and checkpoints; the projector may have its own learning rate; a checkpoint is
    complete or not there; the engine is the one that was asked for. A model for "fsdp2" comes sharded.
    """

    def __init__(self, *args, settings: StageSettings, **kwargs):
        self.settings = settings
        self._saves_aside = False
        super().__init__(*args, **kwargs)

    def create_accelerator_and_postprocess(self):
        """What is sharded is not wrapped in another engine; what autocast copies of a weight goes with its layer."""
        super().create_accelerator_and_postprocess()
        # kept until the end of a forward pass, copies in bf16 would be half a trained language model more
        self.accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)
        if self.settings.engine == "fsdp2":
            prepare = self.accelerator.prepare_model
            self.accelerator.prepare_model = lambda model, **_: prepare(model, device_placement=False, evaluation_mode=True)

    def _move_model_to_device(self, model, device):
        if self.settings.engine != "fsdp2":
            super()._move_model_to_device(model, device)

    def _get_train_sampler(self, train_dataset=None):
        # its order is its own
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    def create_optimizer(self, *args, **kwargs):
        """AdamW over what trains, in groups by weight decay and learning rate."""
        if self.optimizer is None:
            decayed = set(self.get_decay_parameter_names(self.model))
            groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault((name in decayed, is_projector(name)), []).append(parameter)
            settings = self.settings
            rates = {True: settings.projector_learning_rate or settings.learning_rate, False: settings.learning_rate}
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(
                [
                    {"params": parameters, "weight_decay": self.args.weight_decay if decays else 0.0, "lr": rates[projects]}
                    for (decays, projects), parameters in groups.items()
                ],
                **options,
            )
        return self.optimizer

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        divided = self.is_deepspeed_enabled
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None if divided else resume_from_checkpoint)
        check_engine(self, self.settings.engine, self.settings.processes)
        if divided and resume_from_checkpoint is not None:
            # not strict: what is frozen is not in it
            self.model_wrapped.load_checkpoint(resume_from_checkpoint, load_module_strict=False)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _clip_grad_norm(self, model):
        norm = super()._clip_grad_norm(model)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _save_checkpoint(self, model, trial):
        folder, step = Path(self._get_output_dir(trial=trial)), self.state.global_step
        with writing(folder, step):
            self._saves_aside = True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._saves_aside = False
            # every process has written its part
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                written = folder / ASIDE / f"{PREFIX_CHECKPOINT_DIR}-{step}"
                publish(written, folder, {"step": step, "processes": self.settings.processes})
        self.accelerator.wait_for_everyone()
        if self.meter is not None:
            # that was no training
            self.meter.restart()

    def _get_output_dir(self, trial):
        folder = super()._get_output_dir(trial=trial)
        return str(Path(folder) / ASIDE) if self._saves_aside else folder

    def save_model(self, output_dir=None, _internal_call=False):
        """What trains, whole, in one file; deepspeed writes its own."""
        if not self.is_deepspeed_enabled:
            state = trained_state(self.model)
            if self.args.should_save:
                Path(output_dir).mkdir(parents=True, exist_ok=True)
                save_file({name: tensor.contiguous() for name, tensor in state.items()}, Path(output_dir) / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        load_trained_state(self.model if model is None else model, load_file(Path(resume_from_checkpoint) / TRAINED))

    def _save_optimizer_and_scheduler(self, output_dir):
        if self.is_deepspeed_enabled:
            self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        else:
            state = optimizer_state(self.optimizer)
            if self.args.should_save:
                torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is not None:
            if not self.is_deepspeed_enabled:
                load_optimizer_state(self.optimizer, _read(Path(checkpoint) / OPTIMIZER_NAME))
            self.lr_scheduler.load_state_dict(_read(Path(checkpoint) / SCHEDULER_NAME))


def is_projector(parameter_name: str) -> bool:
    """Whether a parameter of a model belongs to its projector."""
    return "projector" in parameter_name.split(".")


@dataclass(frozen=True)
class Stage:
    """What a stage is: what it trains on, how, and where its checkpoints are.

    Args:
        items: item p is what is trained on at position p.
        collate: makes a batch (the model's keyword arguments) of a list of them. Batches of a :class:`RowCollator` are
            measured, and their pictures encoded before the model is called.
        settings: how it trains.
        folder: where Trainer may write; on a file system that all processes share. A tracker's files go beside it, into
            :data:`~pargo_mllm.training.trainer.trackers.LOGS`.
        title, position: of the progress bar.
        held_out: what ``settings.eval_steps`` is for.
        patches: the patch loss, where it is asked for; batches hold its labels then.
    """

    items: Dataset
    collate: Callable[[list], Any]
    settings: StageSettings
    folder: Path
    title: str = "training"
    position: int = 0
    held_out: Dataset | None = None
    patches: PatchAlignment | None = None


def train(model: torch.nn.Module, stage: Stage, callbacks: Sequence[TrainerCallback] = ()) -> list[dict[str, Any]]:
    """Train ``model`` in place, with several processes that of the first one.

    With ``settings.save_steps`` it goes on from the newest complete checkpoint in the stage's folder. A stage of one process
    computes alone, whatever torchrun started.

    Args:
        callbacks: more than those that every stage has.

    Returns:
        The log: step and mean loss, with a patch loss also "caption_loss" and "patch_loss"; in the last entry also how many
        examples were "skipped", by reason.

    Raises:
        TrainingStopped: where going on would do harm; see :mod:`pargo_mllm.training.trainer.guards`.
        EngineError: if ``settings.engine`` is not what comes out, or cannot go on from the checkpoint.
    """
    settings, folder, collate = stage.settings, stage.folder, stage.collate
    with kept_environment():
        if settings.processes == 1:
            forget_others()
        arguments = settings.training_arguments(folder)
        if arguments.parallel_mode == ParallelMode.NOT_DISTRIBUTED:
            # several GPUs in one process would become threads that copy the model every step: more GPUs are for torchrun
            arguments._n_gpu = 1
        sharded = settings.engine == "fsdp2"
        trained = shard(model, arguments.device.type) if sharded else model
        if settings.compile_projector:
            bare_model(trained).model.projector.compile()
        trainer = ParGoTrainer(
            model=trained,
            args=arguments,
            train_dataset=stage.items,
            eval_dataset=stage.held_out,
            data_collator=collate,
            callbacks=[
                FiniteGradients(folder),
                *trackers(settings.report_to, folder.parent / LOGS, arguments),
                StageProgress(stage.title, stage.position),
                *callbacks,
            ],
            settings=settings,
            patches=stage.patches,
            **(measurement(trained, arguments.device, settings.bf16) if isinstance(collate, RowCollator) else {}),
        )
        trainer.remove_callback(PrinterCallback)
        checkpoint = _goes_on_from(folder, settings) if settings.save_steps else None
        if not trainer.is_world_process_zero():
            # dropout of its own; Trainer seeds all processes alike
            torch.manual_seed(settings.seed + trainer.args.process_index)
        if settings.engine == "zero2":
            # which deepspeed insists on, without torchrun too
            os.environ.setdefault("LOCAL_RANK", "0")
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if sharded:
            take_back(trained, model)
    history = trainer.state.log_history
    losses = ("loss", CAPTION_LOSS, PATCH_LOSS)
    log: list[dict[str, Any]] = [
        {"step": entry["step"], **{name: float(entry[name]) for name in losses if name in entry}}
        for entry in history
        if "loss" in entry
    ]
    if log and isinstance(collate, RowCollator):
        log[-1]["skipped"] = skipped_of(history)
    return log


def _goes_on_from(folder: Path, settings: StageSettings) -> Path | None:
    """The newest complete checkpoint, the same for every process."""
    checkpoint = from_the_first(last_checkpoint(folder, tqdm.write) if is_first_process() else None)
    if checkpoint is None:
        return None
    if not checkpoint.is_dir():
        raise EngineError(f"{checkpoint} is not there for every process: --output must lie on a file system that all share.")
    before, now = settings_of(checkpoint).get("processes"), settings.processes
    if before != now and settings.engine == "zero2":
        raise EngineError(
            f"{checkpoint} was written by {before} processes, and engine='zero2' goes on with as many, not with {now}: start "
            f"{before}, or choose another --output."
        )
    if is_first_process():
        tqdm.write(f"goes on from {checkpoint.name.replace('-', ' at step ')}")
        if before != now:
            tqdm.write(f"it was written by {before} processes: {now} read the same pictures, but draw other random numbers")
    return checkpoint


def _read(file: Path):
    return torch.load(file, map_location="cpu", weights_only=True)
