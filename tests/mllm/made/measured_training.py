"""Trains a folder's model for two steps and prints bytes: estimated and measured; weights, gradients and optimizer states as
estimated, and as tensors hold them.

Arguments: folder, where to write, what trains (projector, lora, all), 0 or 1 for bf16 and for gradient checkpointing, and
micro-batches a step.
"""

import copy
import gc
import sys
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback

from pargo_mllm import ParGoConfig, ParGoForConditionalGeneration
from pargo_mllm.language.lora import LoraSettings
from pargo_mllm.training.memory import estimate_memory, meta_model
from pargo_mllm.training.stages import prepare
from pargo_mllm.training.trainer.settings import StageSettings
from pargo_mllm.training.trainer.stage_trainer import Stage, train

BATCH, LENGTH, LABELS = 1, 256, 100


class Rows(Dataset):
    """As many as are asked for."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return index


class Tensors(TrainerCallback):
    """Bytes of gradients and of the optimizer's states."""

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.gradients = sum(parameter.grad.nbytes for parameter in parameters)

    def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        moments = [value for values in optimizer.state.values() for value in values.values() if value.dim()]
        self.optimizer = sum(moment.nbytes for moment in moments)


def status(line):
    """Bytes in a line of this process's status."""
    (found,) = [text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith(line)]
    return int(found.split()[1]) * 1024


def main(folder, work, trains, bf16, checkpointing, accumulation):
    """See above."""
    config = ParGoConfig.from_pretrained(folder)
    stage, lora = (1 if trains == "projector" else 2), (LoraSettings(16, 32, 0.0) if trains == "lora" else None)
    vision = config.vision_config

    def collate(rows):
        ids = torch.randint(0, config.image_token_id, (len(rows), LENGTH))
        ids[:, : config.num_image_tokens] = config.image_token_id
        labels = torch.full_like(ids, -100)
        labels[:, -LABELS:] = ids[:, -LABELS:]
        pixels = torch.randn(len(rows), 3, vision.image_size, vision.image_size)
        return {"input_ids": ids, "labels": labels, "pixel_values": pixels}

    def run(model, name):
        shared = {"save_steps": None, "use_cpu": True, "report_to": "none", "gradient_checkpointing": checkpointing}
        settings = StageSettings(
            steps=2, batch_size=BATCH * accumulation, micro_batch_size=BATCH, bf16=bf16, learning_rate=1e-4, **shared
        )
        tensors, trained = Tensors(), prepare(model, stage, lora)
        train(trained, Stage(Rows(), collate, settings, Path(work) / name), [tensors])
        return sum(weight.nbytes for weight in trained.parameters()), tensors.gradients, tensors.optimizer

    planned = prepare(meta_model(config), stage, lora)
    estimate = estimate_memory(
        planned, 1, BATCH, LENGTH, checkpointing, labels=BATCH * LABELS, bf16=bf16, accumulation=accumulation
    )
    # whatever is imported and kept by the first run of all is not the model's
    small = copy.deepcopy(config)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 4}
    for name, value in sizes.items():
        setattr(small.text_config, name, value)
    small.projector_config.output_size = 64
    run(ParGoForConditionalGeneration(small), "warm")
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    held = run(ParGoForConditionalGeneration.from_pretrained(folder), "measured")
    sums = [sum(getattr(part, kind) for part in estimate.parts) for kind in ("weights", "gradients", "optimizer")]
    print(estimate.total, status("VmHWM") - before, *sums, *held)


if __name__ == "__main__":
    main(*sys.argv[1:4], *(bool(int(value)) for value in sys.argv[4:6]), int(sys.argv[6]))
