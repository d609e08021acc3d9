"""What divides a step among processes: torch's DDP, DeepSpeed's ZeRO stage 2, or torch's FSDP2.

Libraries fall back from one to another without a word; here what was asked for is what runs, or the run ends.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer

from pargo_mllm.errors import UserError
from pargo_mllm.modeling import ParGoForConditionalGeneration

# every process holds everything; gradients and optimizer states divided; weights too
ENGINES = ("ddp", "zero2", "fsdp2")


class EngineError(UserError):
    """An engine that cannot run here, or one that is not what was asked for; the message says why and what to do."""


def check_installed(engine: str) -> None:
    """Raises EngineError if a package is missing that ``engine`` needs."""
    if engine == "zero2" and importlib.util.find_spec("deepspeed") is None:
        raise EngineError(
            "engine='zero2' needs deepspeed, which is not installed: pip install 'pargo[deepspeed]', or give --engine fsdp2, "
            "which divides the same and more, or --engine ddp."
        )


def engine_arguments(engine: str, bf16: bool, use_cpu: bool) -> dict[str, Any]:
    """What the engine adds to transformers' TrainingArguments."""
    if engine != "zero2":
        # everything that trains takes part in every step; looking for what does not breaks gradient checkpointing
        return {"ddp_find_unused_parameters": False}
    if use_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # bf16 as in the other engines, by autocast: deepspeed's own would keep the trained weights in bf16
    autocast = {"enabled": bf16, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    config = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        # buffers of 200 MB; by default they take gigabytes
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 50_000_000, "allgather_bucket_size": 50_000_000},
        "torch_autocast": autocast,
        "steps_per_print": 2**31,
    }
    return {"deepspeed": config, "bf16": False}


def check_engine(trainer: Trainer, engine: str, processes: int) -> None:
    """Look at what a trainer has set up for its step.

    Raises:
        EngineError: if it is not ``engine`` with so many processes.
    """
    found = running_engine(trainer)
    if found != (engine, processes):
        foreign = sorted(name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_")))
        raise EngineError(
            f"engine={engine!r} with {processes} processes was asked for, but {found[0]!r} with {found[1]} came out. Start the "
            "processes with torchrun"
            + (f", and without the variables of accelerate's launcher: {', '.join(foreign)}." if foreign else ".")
        )


def running_engine(trainer: Trainer) -> tuple[str, int]:
    """Which engine a trainer that is prepared runs, judged by its model alone, and over how many processes."""
    model: Any = trainer.model_wrapped
    if isinstance(model, DistributedDataParallel):
        return "ddp", dist.get_world_size(model.process_group)
    if trainer.accelerator.distributed_type == DistributedType.DEEPSPEED:
        return f"zero{model.zero_optimization_stage()}", model.dp_world_size
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sharded = [parameter for parameter in trained if isinstance(parameter, DTensor) and parameter.placements == (Shard(0),)]
    if sharded and len(sharded) == len(trained):
        return "fsdp2", min(parameter.device_mesh.size() for parameter in sharded)
    if sharded or trainer.accelerator.num_processes > 1:
        return "none", trainer.accelerator.num_processes
    return "ddp", 1


def place(model: ParGoForConditionalGeneration, engine: str, device: str) -> None:
    """Bring a model to where it computes; under FSDP2 the encoder alone: the rest goes there in shards."""
    part: torch.nn.Module = model.model.vision_tower if engine == "fsdp2" else model
    part.to(torch.device(device))
