"""One optimizer step of a training stage: the whole model with random weights, every way to compute it.

Before anything is timed, every way must give the loss and the gradients of the dense, padded step in the next wider dtype.
"""

from __future__ import annotations

import gc
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils import is_flash_attn_2_available

from bench.measure import Setting, explain
from bench.projector import BOUND, computed
from bench.provider import Place
from bench.records import FAILED, OK, SKIPPED, UNAVAILABLE, WRONG, TrainingRow
from bench.timing import Samples, Step, interleaved, quantiles
from bench.training_problem import TrainingProblem
from bench.ways import ROUNDING, Results, worst
from pargo_mllm.data.collation import RowCollator
from pargo_mllm.data.contents import BatchContents, count_contents
from pargo_mllm.language.lora import add_lora
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.projectors.pargo import ParGoProjector
from pargo_mllm.training.features import frozen_features
from pargo_mllm.training.flops import StepFlops, peak_flops
from pargo_mllm.training.memory import MemoryEstimate, estimate_memory, meta_model
from pargo_mllm.training.parts import count_parameters, freeze_all_but, part_of

# AdamW computes all it always does, and the weights stay: every step of every way computes on the same ones
LEARNING_RATE = 0.0
MAX_GRAD_NORM = 1.0
# what the loss may differ by, relative to its size; a gradient may differ by twice the dense step's error
LOSS_BOUND = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
WIDER = {torch.float32: torch.float64, torch.bfloat16: torch.float32}


@dataclass(frozen=True)
class TrainingWay:
    """The projector's attention, how examples stand in rows, and the language model's attention."""

    projector: str
    rows: str
    attention: str = "sdpa"

    def why_not_here(self, place: Place) -> str | None:
        """Why it cannot run at this place, or None."""
        if self.attention != "flash_attention_2":
            return None
        if not is_flash_attn_2_available():
            return "flash-attn is not installed, or sees no GPU"
        return None if place.half else f"flash attention does not compute in {place.dtype}"

    def collator(self, row_length: int) -> RowCollator:
        """What makes the rows; padding is token 0."""
        layout = "documents" if self.rows == "documents" else "shared"
        return RowCollator(0, self.rows != "padded", row_length, layout)

    def __str__(self) -> str:
        return f"{self.projector}, {self.rows}" + ("" if self.attention == "sdpa" else f", {self.attention}")


# the dense one first: its error is what the others are held to
DENSE = TrainingWay("sdpa", "padded")
WAYS = (
    DENSE,
    TrainingWay("pargo", "padded"),
    TrainingWay("sdpa", "packed"),
    TrainingWay("pargo", "packed"),
    TrainingWay("pargo", "documents", "flash_attention_2"),
    TrainingWay(BOUND, "packed"),
)


class Trainee:
    """A model with random weights as ``pargo train`` trains it: frozen weights in the run's dtype, trained ones in fp32.

    In bf16 it computes under autocast. LoRA's weights are all random, so that its gradients have none that is zero by design.
    """

    def __init__(self, problem: TrainingProblem, place: Place):
        self.problem, self.place = problem, place
        torch.manual_seed(problem.seed)
        with place.device:
            self.base = ParGoForConditionalGeneration._from_config(problem.config, dtype=place.dtype)
        self.base.model.projector.float()
        if problem.gradient_checkpointing:
            # newer transformers call it activation checkpointing, older ones know no other name
            self.base.gradient_checkpointing_enable({"use_reentrant": False})
        freeze_all_but(self.base, "projector")
        self.model: Any = self.base
        if problem.stage == 2:
            self.model = add_lora(self.base, problem.model_size.lora)
        self.trained: dict[str, nn.Parameter] = {
            name: weight for name, weight in self.model.named_parameters() if weight.requires_grad
        }
        for name, weight in self.trained.items():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.02)
        # PEFT keeps a frozen copy beside the one that it trains
        projectors = (module for module in self.model.modules() if isinstance(module, ParGoProjector))
        self.projector = next(module for module in projectors if module.query_tokens.requires_grad)
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=LEARNING_RATE, fused=True)

    @property
    def lora_parameters(self) -> int:
        """Trained weights inside the language model."""
        return sum(weight.numel() for name, weight in self.trained.items() if part_of(name) == "language_model")

    def held_bytes(self) -> int:
        """Bytes of the weights and of the optimizer's states."""
        states = (value for state in self.optimizer.state.values() for value in state.values())
        return sum(tensor.nbytes for tensor in (*self.model.parameters(), *self.model.buffers(), *states))

    def batch(self, way: TrainingWay, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The model's keyword arguments."""
        batch = way.collator(self.problem.row_length)(examples)
        del batch["contents"]
        return {name: tensor.to(self.place.device) for name, tensor in batch.items()}

    def step(self, way: TrainingWay, batch: dict[str, torch.Tensor]) -> Step:
        """The frozen encoder, forward, backward, and clipping with AdamW as a step of the meter."""

        def step(mark: Callable[[], None]) -> torch.Tensor:
            # layers are computed again during the backward: the way holds for it too
            with self._computed(way):
                inputs = self._encoded(batch, self.place.half)
                mark()
                loss = self._loss(inputs, self.place.half)
                mark()
                loss.backward()
            mark()
            nn.utils.clip_grad_norm_(self.trained.values(), MAX_GRAD_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            mark()
            return loss.detach()

        return step

    def results(self, way: TrainingWay, batch: dict[str, torch.Tensor], bf16: bool) -> tuple[float, Results]:
        """The loss, and the gradients of the projector and of LoRA, without dropout.

        Args:
            bf16: under autocast.
        """
        with self._computed(way), _without_dropout(self.model):
            loss = self._loss(self._encoded(batch, bf16), bf16)
            gradients = torch.autograd.grad(loss, list(self.trained.values()))
        parts: dict[str, list[torch.Tensor]] = {}
        for name, gradient in zip(self.trained, gradients, strict=True):
            parts.setdefault(part_of(name), []).append(gradient)
        return loss.item(), list(parts.values())

    def exact(self, batch: dict[str, torch.Tensor]) -> tuple[float, Results]:
        """What the dense way gives in the next wider dtype."""
        wider = WIDER[self.place.dtype]
        narrow = {weight: weight.dtype for weight in self.model.parameters()}
        for weight in narrow:
            weight.data = weight.data.to(wider)
        try:
            return self.results(DENSE, batch, bf16=False)
        finally:
            # loses nothing: every value came from there
            for weight, dtype in narrow.items():
                weight.data = weight.data.to(dtype)

    def tidy(self) -> None:
        """Free what a step that failed has left, and the memory that the allocator keeps for it."""
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.place.on_cuda:
            torch.cuda.empty_cache()

    def _encoded(self, batch: dict[str, torch.Tensor], bf16: bool) -> dict[str, torch.Tensor]:
        """The frozen encoder's features in place of the pixels, as the trainer puts them there."""
        rest = {name: tensor for name, tensor in batch.items() if name != "pixel_values"}
        return {**rest, "vision_features": frozen_features(self.base.model, batch["pixel_values"], bf16)}

    def _loss(self, inputs: dict[str, torch.Tensor], bf16: bool) -> torch.Tensor:
        with torch.autocast(self.place.device.type, torch.bfloat16, enabled=bf16):
            return self.model(**inputs, use_cache=False).loss

    @contextmanager
    def _computed(self, way: TrainingWay) -> Iterator[None]:
        # not through the whole model: it would reset the copy of the projector that PEFT trains
        language_model = self.base.model.language_model
        before = language_model.config._attn_implementation
        language_model.set_attn_implementation(way.attention)
        try:
            with computed(self.projector, way.projector):
                yield
        finally:
            language_model.set_attn_implementation(before)


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Dropout differs from call to call; evaluation mode would switch gradient checkpointing off too."""
    rates = {module: module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    for module in rates:
        module.p = 0.0
    try:
        yield
    finally:
        for module, rate in rates.items():
            module.p = rate


def memory_estimate(problem: TrainingProblem) -> MemoryEstimate:
    """What the step is expected to take in bf16 with padded rows, before there is a model."""
    model: Any = meta_model(problem.config)
    freeze_all_but(model, "projector")
    if problem.stage == 2:
        model = add_lora(model, problem.model_size.lora)
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
    ways: tuple[TrainingWay, ...] = WAYS,
) -> list[TrainingRow]:
    """A row of every way. The dense one comes first: without it nothing is right or wrong, and nothing is timed."""
    say("building the model")
    # the last stage's model may still stand
    gc.collect()
    trainee = Trainee(problem, setting.place)
    examples = problem.examples()
    contents = count_contents([item["packed"] for item in examples], [1] * len(examples))
    flops = StepFlops(problem.config, trainee.lora_parameters).step(contents)
    rows = {way: _row(way, group, trainee, contents, flops, setting) for way in ways}
    batches = {way: trainee.batch(way, examples) for way in _runnable(rows, setting.place)}
    _verify(trainee, rows, batches, say)
    steps: dict[TrainingWay, Step] = {}
    usual: dict[TrainingWay, float] = {}
    for way, batch in batches.items():
        row = rows[way]
        if row.status != OK:
            continue
        say(f"trying {way}")
        try:
            step = trainee.step(way, batch)
            # the first one compiles, and makes the optimizer's states
            row.first_call_ms = setting.meter.call(step)[-1] * 1e3
            row.held_bytes = trainee.held_bytes()
            _, row.peak_bytes = setting.meter.peak(step)
            usual[way] = setting.meter.call(step)[-1]
            steps[way] = step
        except Exception as error:
            row.status, row.reason = FAILED, explain(error)
            trainee.tidy()
    say(f"timing {', '.join(map(str, steps))}")
    samples, failures = interleaved(steps, usual, setting.meter, setting.seconds, turn_calls=1)
    for way, failure in failures.items():
        rows[way].status, rows[way].reason = FAILED, explain(failure)
    for way, sample in samples.items():
        _fill(rows[way], sample, setting.place)
    base = rows[DENSE].median_ms
    for row in rows.values():
        row.load_average = os.getloadavg()[0]
        row.speedup_over_dense = base / row.median_ms if base and row.median_ms else None
    return list(rows.values())


class Bound:
    """What the steps are held to: loss and gradients in a wider dtype, and how far the dense way is from them."""

    def __init__(self, dtype: torch.dtype, loss: float, gradients: Results):
        self.dtype, self.loss, self.gradients = dtype, loss, gradients
        self.gradient_bound: float | None = None

    def verdict(self, way: TrainingWay, row: TrainingRow, loss: float, gradients: Results) -> tuple[str, str]:
        """Status and reason; the row gets loss and errors."""
        row.loss, row.loss_error = loss, abs(loss - self.loss) / abs(self.loss)
        row.gradient_error = worst(gradients, self.gradients)
        if way == DENSE:
            self.gradient_bound = 2 * row.gradient_error + ROUNDING
        if self.gradient_bound is None:
            return SKIPPED, "the dense, padded step has failed: nothing says how far a gradient may be off"
        # NaN compares false: it is never within a bound
        if not row.loss_error <= LOSS_BOUND[self.dtype]:
            return WRONG, f"the loss is off by {row.loss_error:.1e} of its size, at most {LOSS_BOUND[self.dtype]:.0e}"
        if not row.gradient_error <= self.gradient_bound:
            return WRONG, f"a gradient is off by {row.gradient_error:.2e}, twice the dense step's is {self.gradient_bound:.2e}"
        return OK, ""


def _runnable(rows: dict[TrainingWay, TrainingRow], place: Place) -> list[TrainingWay]:
    """Those that can run at the place; the rows of the others say why not."""
    for way, row in rows.items():
        if reason := way.why_not_here(place):
            row.status, row.reason = UNAVAILABLE, reason
    return [way for way, row in rows.items() if row.status == OK]


def _verify(
    trainee: Trainee,
    rows: dict[TrainingWay, TrainingRow],
    batches: dict[TrainingWay, dict[str, torch.Tensor]],
    say: Callable[[str], None],
) -> None:
    """Give each row its loss and errors; those that failed or are wrong say so."""
    say("verifying: the dense step in a wider dtype")
    try:
        bound = Bound(trainee.place.dtype, *trainee.exact(batches[DENSE]))
    except Exception as error:
        for way in batches:
            rows[way].status, rows[way].reason = FAILED, f"the dense step in a wider dtype, to compare with: {explain(error)}"
        return
    for way, batch in batches.items():
        row = rows[way]
        row.num_rows, row.row_length = batch["input_ids"].shape
        if trainee.place.half:
            # the estimate is for bf16
            checkpointing = trainee.problem.gradient_checkpointing
            row.estimated_bytes = estimate_memory(trainee.model, 1, row.num_rows, row.row_length, checkpointing).total
        if way.projector == BOUND:
            continue
        say(f"verifying {way}")
        try:
            row.status, row.reason = bound.verdict(way, row, *trainee.results(way, batch, trainee.place.half))
        except Exception as error:
            row.status, row.reason = FAILED, explain(error)
            trainee.tidy()


def _row(
    way: TrainingWay, group: int, trainee: Trainee, contents: BatchContents, flops: float, setting: Setting
) -> TrainingRow:
    problem = trainee.problem
    return TrainingRow(
        group=group,
        size=f"{problem.size}, dry run" if problem.dry else problem.size,
        language_layers=problem.config.text_config.num_hidden_layers,
        stage=problem.stage,
        parameters=sum(total for total, _ in count_parameters(trainee.model).values()),
        trained=sum(weight.numel() for weight in trainee.trained.values()),
        dtype=setting.dtype,
        gradient_checkpointing=problem.gradient_checkpointing,
        lengths=problem.lengths,
        seed=problem.seed,
        pictures=contents.num_pictures,
        tokens=contents.tokens,
        labels=contents.labels,
        way=str(way),
        projector=way.projector,
        rows=way.rows,
        attention=way.attention,
        status=OK,
        model_flops=flops,
        matmul_flops_per_s=setting.matmul_flops_per_s,
    )


def _fill(row: TrainingRow, samples: Samples, place: Place) -> None:
    assert row.model_flops is not None
    low, middle, high = quantiles(samples.whole)
    row.median_ms, row.q20_ms, row.q80_ms = middle * 1e3, low * 1e3, high * 1e3
    row.rounds, row.calls = samples.rounds, len(samples.whole)
    parts = (statistics.median(part) * 1e3 for part in samples.parts)
    row.encoder_ms, row.forward_ms, row.backward_ms, row.optimizer_ms = parts
    row.tokens_per_s, row.images_per_s = row.tokens / middle, row.pictures / middle
    row.flops_per_s = row.model_flops / middle
    # the peaks are those of bf16
    peak = peak_flops(place.device) if place.half else None
    row.mfu = row.flops_per_s / peak if peak else None
