"""transformers' Trainer with a progress bar that tells which stage it is and a learning rate of its own for the projector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.training_args import ParallelMode

from pargo_mllm.data.collation import RowCollator
from pargo_mllm.training.checkpoints import ASIDE, last_checkpoint, publish
from pargo_mllm.training.guards import FiniteGradients, writing
from pargo_mllm.training.measured_trainer import MeasuredTrainer, measurement
from pargo_mllm.training.settings import StageSettings
from pargo_mllm.training.trackers import trackers


class StageProgress(TrainerCallback):
    """One bar a stage, with the running loss. ``position`` is its line where several processes train side by side."""

    def __init__(self, title: str, position: int = 0):
        self.title = title
        self.position = position

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar."""
        self.bar = tqdm(total=state.max_steps, desc=self.title, position=self.position, unit="step", dynamic_ncols=True)

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
        if logs and "eval_loss" in logs:
            tqdm.write(f"step {state.global_step}: held-out loss {logs['eval_loss']:.4f}")

    def on_train_end(self, args, state, control, **kwargs):
        """Close it."""
        self.bar.close()


class ParGoTrainer(MeasuredTrainer):
    """Trainer for stages: what is frozen stays out of the optimizer, the projector may have its own learning rate."""

    def __init__(self, *args, projector_learning_rate: float | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.projector_learning_rate = projector_learning_rate
        self._saves_aside = False

    def create_optimizer(self, *args, **kwargs):
        """AdamW over what trains, in groups by weight decay and learning rate."""
        if self.optimizer is None:
            decayed = set(self.get_decay_parameter_names(self.model))
            groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault((name in decayed, is_projector(name)), []).append(parameter)
            rates = {True: self.projector_learning_rate or self.args.learning_rate, False: self.args.learning_rate}
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(
                [
                    {"params": parameters, "weight_decay": self.args.weight_decay if decays else 0.0, "lr": rates[projects]}
                    for (decays, projects), parameters in groups.items()
                ],
                **settings,
            )
        return self.optimizer

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
                publish(folder / ASIDE / f"{PREFIX_CHECKPOINT_DIR}-{step}", folder, {"step": step})
        self.accelerator.wait_for_everyone()
        if self.meter is not None:
            # no time of training
            self.meter.restart()

    def _get_output_dir(self, trial):
        folder = super()._get_output_dir(trial=trial)
        return str(Path(folder) / ASIDE) if self._saves_aside else folder


def is_projector(parameter_name: str) -> bool:
    """Whether a parameter of a model belongs to its projector."""
    return "projector" in parameter_name.split(".")


def train(
    model: torch.nn.Module,
    dataset: Dataset,
    collate,
    settings: StageSettings,
    folder: Path,
    title: str,
    position: int = 0,
    callbacks: Sequence[TrainerCallback] = (),
    held_out: Dataset | None = None,
) -> list[dict[str, float]]:
    """Train ``model`` in place. With ``settings.save_steps`` it goes on from the newest complete checkpoint in ``folder``.

    Args:
        collate: makes a batch (the model's keyword arguments) of a list of the dataset's items. Batches of a
            :class:`RowCollator` are measured, and their pictures encoded before the model is called.
        folder: where Trainer may write. A tracker's files go beside it, into ``logs``.
        title, position: of the progress bar.
        callbacks: more of them.
        held_out: what ``settings.eval_steps`` is for.

    Returns:
        The log: step and mean loss.

    Raises:
        TrainingStopped: where going on would do harm; see :mod:`pargo_mllm.training.guards`.
    """
    arguments = settings.training_arguments(folder)
    if arguments.parallel_mode == ParallelMode.NOT_DISTRIBUTED:
        # several GPUs in one process would become threads that copy the model every step: more GPUs are for torchrun
        arguments._n_gpu = 1
    trainer = ParGoTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        eval_dataset=held_out,
        data_collator=collate,
        callbacks=[
            FiniteGradients(folder),
            *trackers(settings.report_to, folder.parent / "logs", arguments),
            StageProgress(title, position),
            *callbacks,
        ],
        projector_learning_rate=settings.projector_learning_rate,
        **(measurement(model, settings.bf16) if isinstance(collate, RowCollator) else {}),
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = last_checkpoint(folder, tqdm.write) if settings.save_steps else None
    if checkpoint is not None:
        tqdm.write(f"goes on from {checkpoint.name.replace('-', ' at step ')}")
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return [{"step": entry["step"], "loss": float(entry["loss"])} for entry in trainer.state.log_history if "loss" in entry]
