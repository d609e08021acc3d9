"""One optimizer step of a training stage: the whole model with random weights, every way to compute it.

Before anything is timed, every way must give the loss and the gradients of the dense, padded step in the next wider dtype.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from bench.contest.against_dense import AgainstDense, Results
from bench.contest.engine import Contest, Entrant, Setting, explain, new_row
from bench.contest.provider import Place
from bench.contest.records import FAILED, OK, UNAVAILABLE, WRONG, Row
from bench.problems.training import TrainingProblem
from bench.workloads.projector import BOUND
from bench.workloads.trainee import DENSE, WIDER, Trainee, TrainingWay, ways_of
from pargo_mllm.data.feeding.contents import count_contents
from pargo_mllm.training.memory import MemoryEstimate, estimate_memory, meta_model
from pargo_mllm.training.stages import prepare
from pargo_mllm.training.trainer.flops import StepFlops, peak_flops
from pargo_mllm.training.trainer.parts import count_parameters

# the whole of a step, and its parts
STEP, PARTS = "step", ("encoder", "forward", "backward", "optimizer")
# what the loss may differ by, relative to its size; a gradient may differ by twice the dense step's error
LOSS_BOUND = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def memory_estimate(problem: TrainingProblem) -> MemoryEstimate:
    """What the step is expected to take in bf16 with padded rows, before there is a model."""
    config = problem.config
    config.dtype = torch.bfloat16
    model: Any = prepare(meta_model(config), problem.stage, problem.model_size.lora)
    longest = max(problem.example_lengths())
    return estimate_memory(model, 1, problem.pictures, longest, problem.gradient_checkpointing)


def needed_bytes(problem: TrainingProblem, place: Place) -> int:
    """About the most that is needed at once: for training, or for what it is verified with, in the wider dtype."""
    parts = memory_estimate(problem).parts
    verifying = sum(part.weights + part.gradients + part.activations for part in parts)
    training = verifying + sum(part.optimizer for part in parts)
    # the estimate is for bf16
    return max(training * place.dtype.itemsize // 2, verifying * WIDER[place.dtype].itemsize // 2)


def measure_training(
    problem: TrainingProblem,
    group: int,
    setting: Setting,
    say: Callable[[str], None] = lambda text: None,
    keep: Callable[[Row], None] = lambda row: None,
    ways: tuple[TrainingWay, ...] | None = None,
) -> list[Row]:
    """Rows of every way: of the whole step, and of each of its parts. The dense way comes first: it judges the others."""
    say("building the model")
    # the last stage's model may still stand
    gc.collect()
    stage = Stage(problem, setting)
    say("verifying: the dense step in a wider dtype")
    failure = stage.ask()
    entrants = [stage.entrant(way, failure) for way in ways or ways_of(problem)]
    return Contest(setting, str(DENSE).__eq__, say, keep).run(entrants, group, turn_calls=1)


class Stage:
    """A trainee, its examples, and what is known of the right step."""

    def __init__(self, problem: TrainingProblem, setting: Setting):
        self.problem, self.setting = problem, setting
        self.trainee = Trainee(problem, setting.place)
        self.examples = problem.examples()
        self.contents = count_contents([item["packed"] for item in self.examples], [1] * len(self.examples))
        self.flops = StepFlops(problem.config, self.trainee.lora_parameters).step(self.contents)
        # with the patch loss, and without it
        self.losses = dict.fromkeys((False, True), float("nan"))
        self.judges: dict[bool, AgainstDense] = {}

    def ask(self) -> str | None:
        """Take the dense step in a wider dtype; returns what kept it from being taken, or None."""
        try:
            for way in (DENSE, replace(DENSE, patches=True)) if self.problem.stage == 1 else (DENSE,):
                self.losses[way.patches], gradients = self.trainee.exact(self.trainee.batch(way, self.examples))
                self.judges[way.patches] = AgainstDense(gradients, str(DENSE))
        except Exception as error:
            return f"the dense step in a wider dtype, to compare with: {explain(error)}"
        return None

    def entrant(self, way: TrainingWay, failure: str | None) -> Entrant:
        """What enters the contest for a way."""
        row = self.row(way)
        if reason := way.why_not_here(self.setting.place):
            row.status, row.reason = UNAVAILABLE, reason
        elif failure:
            row.status, row.reason = FAILED, failure
        if row.status != OK:
            return Entrant(row)
        batch = self.trainee.batch(way, self.examples)
        num_rows, row_length = batch["input_ids"].shape
        row.details |= {"num_rows": num_rows, "row_length": row_length}
        if self.setting.place.half:
            # the estimate is for bf16
            checkpointing = self.problem.gradient_checkpointing
            row.details["estimated_bytes"] = estimate_memory(
                self.trainee.model, 1, num_rows, row_length, checkpointing, labels=self.contents.labels
            ).total
        bounds = way.projector == BOUND
        return Entrant(
            row,
            self.trainee.step(way, batch),
            images=self.contents.num_pictures,
            judge=None if bounds else partial(self.judge, way.patches),
            trial=None if bounds else partial(self.trainee.results, way, batch, self.setting.place.half),
            parts=PARTS,
            finish=self.finish,
            tidy=self.trainee.tidy,
        )

    def judge(self, patches: bool, row: Row, found: tuple[float, Results]) -> tuple[str, str]:
        """Loss and gradients against the dense step in a wider dtype; with the patch loss, against the one that has it too."""
        loss, gradients = found
        off, most = abs(loss - self.losses[patches]) / abs(self.losses[patches]), LOSS_BOUND[self.setting.place.dtype]
        row.details |= {"loss": loss, "loss_error": off}
        # what a right way may be off by is what the dense one without it is
        self.judges[patches].bound = self.judges[False].bound
        verdict = self.judges[patches](row, gradients)
        # NaN compares false: it is never within a bound
        if verdict[0] in (OK, WRONG) and not off <= most:
            return WRONG, f"the loss is off by {off:.1e} of its size, at most {most:.0e}"
        return verdict

    def finish(self, row: Row) -> None:
        """Rates of the whole step, in tokens of the examples: padding and repeated tokens do not count."""
        if row.direction != STEP:
            return
        assert row.median_ms is not None
        seconds, rate = row.median_ms * 1e-3, self.flops / row.median_ms * 1e3
        # the peaks are those of bf16
        peak = peak_flops(self.setting.place.device) if self.setting.place.half else None
        row.details |= {
            "tokens_per_s": self.contents.tokens / seconds,
            # operations that the mathematics of the step needs, their rate, and its share of the device's peak
            "model_flops": self.flops,
            "flops_per_s": rate,
            "mfu": rate / peak if peak else None,
            # weights and the optimizer's states
            "held_bytes": self.trainee.held_bytes(),
        }

    def row(self, way: TrainingWay) -> Row:
        """A way's row, before it is tried."""
        row = new_row(self.setting, self.problem, STEP, str(way))
        row.configuration |= {
            "parameters": sum(total for total, _ in count_parameters(self.trainee.model).values()),
            "trained": sum(weight.numel() for weight in self.trainee.trained.values()),
            "tokens": self.contents.tokens,
            "labels": self.contents.labels,
            "projector": way.projector,
            "rows": way.rows,
            "attention": way.attention,
            "patch_loss": way.patches,
        }
        return row
