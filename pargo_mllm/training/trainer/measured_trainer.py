"""A Trainer that counts what its batches hold, logs throughput, encodes pictures once, and evaluates exactly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import Trainer

from pargo_mllm.data.corpus import shown
from pargo_mllm.data.feeding.contents import BatchContents
from pargo_mllm.data.feeding.encoding import WHY_SKIPPED, TrainingSet
from pargo_mllm.training.trainer.flops import StepFlops, weights_a_token
from pargo_mllm.training.trainer.frozen_features import frozen_features
from pargo_mllm.training.trainer.guards import TrainingStopped, not_finite
from pargo_mllm.training.trainer.parts import part_of
from pargo_mllm.training.trainer.throughput import ThroughputMeter

# in the log's entries: examples skipped so far, by reason
SKIPPED = "skipped_by_reason"
# each example that is skipped is named, up to so many
NAMED = 1000
# of a name and a reason, in characters
_SHOWN = 2000


class MeasuredTrainer(Trainer):
    """Trainer over batches that tell their contents (:class:`BatchContents` under "contents"); others pass as they are.

    Args:
        meter: gets the contents; its report goes into the log.
        encode: features ``[images, n_v, c]`` of pixels ``[images, 3, s, s]`` by a frozen encoder; None leaves pixels to the
            model.
        bf16: evaluate under autocast, as the model is trained.
    """

    def __init__(
        self,
        *args,
        meter: ThroughputMeter | None = None,
        encode: Callable[[torch.Tensor], torch.Tensor] | None = None,
        bf16: bool = False,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.bf16 = bf16
        self.meter = meter
        self.encode = encode
        self._skipped: Counter[str] = Counter()
        self._skipped_before: dict[str, int] | None = None
        self._named: set[str] = set()

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device):
        """The micro-batches of a step, and how many labels they have in all processes."""
        if self.meter is None:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        with self.meter.waiting():
            batches = list(islice(epoch_iterator, num_batches))
        for batch in batches:
            self._count(batch)
        labels = self._get_num_items_in_batch(batches, device)
        # where every example was skipped the loss is 0, not 0 / 0
        return batches, labels.clamp(min=1) if isinstance(labels, torch.Tensor) else labels

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        if self.encode is not None and inputs.get("pixel_values") is not None:
            inputs["vision_features"] = self.encode(inputs.pop("pixel_values"))
        return inputs

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Log, with the throughput since the last log of the loss.

        Raises:
            TrainingStopped: for a loss that is no number, before a checkpoint is written. (Its gradient was stopped already,
                except where deepspeed keeps it to itself.)
        """
        if not math.isfinite(logs.get("loss", 0.0)):
            raise TrainingStopped(not_finite(self.state.global_step, "the loss", Path(str(self.args.output_dir))))
        if "loss" in logs and self.meter is not None:
            skipped = self._all_skipped()
            logs |= self.meter.report()
            logs["skipped"] = sum(skipped.values())
            super().log(logs, *args, **kwargs)
            # kept with checkpoints; trackers take numbers alone
            entry: dict[str, Any] = self.state.log_history[-1]
            entry[SKIPPED] = skipped
        else:
            super().log(logs, *args, **kwargs)

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Mean loss over all labels of the held-out part, the same for every batch size and number of processes.

        One micro-batch at a time, logits only where there are labels, and nothing of it is kept but two numbers.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        assert isinstance(dataset, TrainingSet)
        size, processes = self.args.per_device_eval_batch_size, self.args.world_size
        batches = [range(first, min(first + size, len(dataset))) for first in range(0, len(dataset), size)]
        # every process runs the model as often: those that have no batch left run one that counts nothing
        rounds = -(-len(batches) // processes)
        mine = [batches[min(turn * processes + self.args.process_index, len(batches) - 1)] for turn in range(rounds)]
        loader = DataLoader(
            dataset, batch_sampler=mine, collate_fn=self.data_collator, num_workers=self.args.dataloader_num_workers
        )
        model: Any = self.model
        was_training = model.training
        model.eval()
        sums = torch.zeros(len(self.judges), 2, dtype=torch.float64)
        for turn, batch in enumerate(loader):
            contents = batch.pop("contents")
            found = self.judged(model, self._prepare_inputs(batch), contents.labels)
            if turn * processes + self.args.process_index < len(batches) and contents.labels:
                sums += torch.tensor([found[name] for name in self.judges], dtype=torch.float64)
        model.train(was_training)
        if dist.is_available() and dist.is_initialized():
            sums = sums.to(self.args.device)
            dist.all_reduce(sums)
        metrics = {
            f"{metric_key_prefix}_{name}": total / max(1.0, count)
            for name, (total, count) in zip(self.judges, sums.tolist(), strict=True)
            # a loss of nothing is none; that of captions stands, for others wait for it
            if count or name == "loss"
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self.meter is not None:
            self.meter.restart()
        return metrics

    @property
    def judges(self) -> tuple[str, ...]:
        """The losses that are evaluated."""
        return ("loss",)

    def judged(self, model: Any, inputs: dict[str, Any], labels: int) -> dict[str, tuple[float, int]]:
        """Of a micro-batch with so many labels, the sum of each loss and how many things it is a sum over."""
        return {"loss": (self.judge(model, inputs).loss.item(), labels)}

    def judge(self, model: Any, inputs: dict[str, Any]) -> Any:
        """The model's outputs with the sum of the losses of its labels."""
        one = torch.ones((), device=self.args.device)
        # deepspeed's autocast is not around the bare model
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False):
            return model(**inputs, num_items_in_batch=one, skip_logits=True)

    def _all_skipped(self) -> dict[str, int]:
        """How many examples all processes have skipped so far, by reason, before a run was interrupted too."""
        if self._skipped_before is None:
            self._skipped_before = skipped_of(self.state.log_history)
        counts = torch.tensor([self._skipped[kind] for kind in WHY_SKIPPED], device=self.args.device)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
        found = zip(WHY_SKIPPED, counts.tolist(), strict=True)
        both = {kind: count + self._skipped_before.get(kind, 0) for kind, count in found}
        return {kind: count for kind, count in both.items() if count}

    def _count(self, batch: dict[str, Any]) -> None:
        contents: BatchContents = batch.pop("contents")
        assert self.meter is not None
        self.meter.add(contents)
        self._skipped.update(contents.why)
        for name, reason in contents.skipped:
            if name not in self._named and len(self._named) < NAMED:
                self._named.add(name)
                # what cannot be printed must not end the run
                tqdm.write(shown(f"skipped {name}: {reason}", _SHOWN))


def skipped_of(log_history: list[dict[str, Any]]) -> dict[str, int]:
    """How many examples were skipped until the last log of the loss, by reason."""
    return next((entry[SKIPPED] for entry in reversed(log_history) if SKIPPED in entry), {})


def bare_model(model: torch.nn.Module) -> Any:
    """The ParGo model itself, or the one inside PEFT's."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def measurement(model: torch.nn.Module, device: torch.device, bf16: bool) -> dict[str, Any]:
    """Arguments of :class:`MeasuredTrainer` for a ParGo model, bare or inside PEFT's, that trains on ``device``."""
    bare = bare_model(model)
    trained = {
        name: weight for name, weight in model.named_parameters() if weight.requires_grad and part_of(name) == "language_model"
    }
    whole = bool(trained) and not isinstance(model, PeftModel)
    flops = StepFlops(bare.config, 0 if whole else weights_a_token(bare.config, trained), whole)
    return {
        "meter": ThroughputMeter(flops, device),
        # under autocast as the model is trained
        "encode": partial(frozen_features, bare.model, bf16=bf16),
        "bf16": bf16,
    }
