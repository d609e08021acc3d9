"""The keys of a recipe: type, default and meaning, each declared here alone. What they must keep to is checked where they act:
:class:`pargo_mllm.training.recipes.Recipe` and :class:`pargo_mllm.training.trainer.settings.StageSettings`.
"""

from __future__ import annotations

import typing
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, NamedTuple

# packaged recipes; files alone, the package around them is not imported
PACKAGED = Path(__file__).resolve().parent.parent / "pargo_mllm" / "recipes"
PROJECTOR_TYPES = ("pargo", "qformer", "linear", "mlp", "resampler", "c_abstractor", "d_abstractor")


class Means(NamedTuple):
    """What ``pargo train --help`` says of a key.

    Args:
        value: what stands for its value: N, DIR, or the words that it takes with "|" between them.
        text: what it is, with its unit.
    """

    value: str
    text: str


@dataclass(frozen=True, kw_only=True)
class TrainingKeys:
    """What a recipe and the trainer call the same. AdamW."""

    batch_size: Annotated[int, Means("N", "examples in an optimizer step, of all processes together")] = 16
    micro_batch_size: Annotated[
        int | None,
        Means("N", "of them, those that a process computes at once; gradients add up over the rest (default: its whole share)"),
    ] = None
    learning_rate: Annotated[float, Means("RATE", "the highest, of every trained part without a rate of its own")] = 1e-4
    projector_learning_rate: Annotated[float | None, Means("RATE", "the highest of the projector (default: learning_rate)")] = (
        None
    )
    min_learning_rate: Annotated[
        float, Means("RATE", "where a cosine ends, for learning_rate; other rates fall by the same factor")
    ] = 0.0
    warmup: Annotated[float, Means("SHARE", "of the steps, while the rate rises; 0 to 1")] = 0.05
    warmup_steps: Annotated[int | None, Means("N", "the same as a number of steps, in place of warmup")] = None
    schedule: Annotated[
        str, Means("cosine|warmup_stable_decay", "of the learning rate; the second decays over its last 30 %")
    ] = "cosine"
    weight_decay: Annotated[float, Means("X", "of AdamW: times the rate, the share of a weight that a step takes away")] = 0.01
    adam_beta2: Annotated[float, Means("X", "of AdamW: how slowly the mean of squared gradients moves; 0 to 1")] = 0.999
    adam_epsilon: Annotated[float, Means("X", "of AdamW: added to the root of that mean")] = 1e-8
    max_grad_norm: Annotated[float, Means("X", "norm to which larger gradients are clipped")] = 1.0
    gradient_checkpointing: Annotated[
        bool, Means("true|false", "layers keep their input alone and are computed again: less memory, more time")
    ] = False
    save_steps: Annotated[
        int | None, Means("N", "steps between checkpoints, from which a killed run goes on; null writes none")
    ] = 1000
    eval_steps: Annotated[
        int | None, Means("N", "steps between evaluations on the held-out part (default: none is evaluated)")
    ] = None
    workers: Annotated[int, Means("N", "processes that read data ahead, for each process that trains")] = 0
    report_to: Annotated[str, Means("NAME", "a tracker of transformers, such as tensorboard or wandb, or none")] = "tensorboard"
    compile_projector: Annotated[bool, Means("true|false", "torch.compile for the projector")] = False
    engine: Annotated[
        str, Means("ddp|zero2|fsdp2", "what several processes divide: the batch; states and gradients too; weights too")
    ] = "ddp"
    seed: Annotated[int, Means("N", "of the projector, the views and the order of training")] = 0


@dataclass(frozen=True, kw_only=True)
class RecipeKeys(TrainingKeys):
    """One stage of training, as a YAML file or the command line says it."""

    stage: Annotated[int, Means("1|2", "1: the projector learns from captions; 2: projector and LoRA learn to answer")]
    data: Annotated[
        tuple | None,
        Means(
            "PATH",
            "a COCO-style folder, a LLaVA JSON file, webdataset shards, what pargo data prepare made, scenes "
            "(scenes:seed=1,train=5000,held_out=400); FILE.yaml of pargo data mixture; or several, "
            "'[A, B]' or '[{path: A, weight: 0.7}, …]', all with a weight or none",
        ),
    ] = None
    image_root: Annotated[
        Path | None,
        Means(
            "DIR",
            "where LLaVA files have their pictures; names may be absolute paths in it too (default: beside the files)",
        ),
    ] = None
    held_out: Annotated[
        float,
        Means("SHARE", "of a LLaVA file or of shards, kept from training, 0 to 1; of a COCO-style folder it is a fifth"),
    ] = 0.0
    check_data: Annotated[
        bool, Means("true|false", "look at the heads of all pictures first, and say what will be skipped for them")
    ] = True
    template: Annotated[
        str, Means("chat|plain", "of the text; plain: captions without a prompt, as picture, text, end token")
    ] = "chat"
    model: Annotated[
        Path | None, Means("DIR", "model and processor to start from; stage 2 starts from the folder of stage 1")
    ] = None
    output: Annotated[
        Path | None,
        Means("DIR", "the folder that training ends with; the same command again goes on or says that it is finished"),
    ] = None
    architecture: Annotated[
        dict | None, Means("KEYS", "arguments of ParGoConfig in place of a model, for a dry run alone: '{text_config: …}'")
    ] = None
    miniature: Annotated[
        str | None, Means("demo|tiny", "in place of a model, small parts that are trained first (stage 0); of stage 1")
    ] = None
    projector: Annotated[
        dict | None,
        Means(
            "TYPE",
            f"of stage 1, a fresh one: {', '.join(PROJECTOR_TYPES)}; or arguments, '{{projector_type: mlp, …}}' "
            "(default: the model's own)",
        ),
    ] = None
    views: Annotated[
        int, Means("N", "views (crops) made of the photographs of a COCO-style folder, about so many; 0: each once, whole")
    ] = 0
    max_length: Annotated[
        int, Means("N", "tokens of an example at most, those of pictures included; longer ones are skipped and named")
    ] = 1024
    pack: Annotated[
        bool, Means("true|false", "examples share rows of at most max_length tokens, and do not see each other")
    ] = False
    group_by_length: Annotated[bool, Means("true|false", "examples of a batch are about equally long")] = False
    cache_features: Annotated[
        bool, Means("true|false", "the encoder reads each picture once, before training; its features are kept on disk")
    ] = False
    attention: Annotated[str, Means("sdpa|eager|flash_attention_2", "of encoder and language model")] = "sdpa"
    projector_attention: Annotated[str, Means("pargo|sdpa|eager", "of the projector: the kernels, or a dense baseline")] = (
        "pargo"
    )
    eval_examples: Annotated[int, Means("N", "held-out examples that are evaluated, at most")] = 512
    steps: Annotated[int | None, Means("N", "optimizer steps; or give epochs")] = None
    epochs: Annotated[int | None, Means("N", "times through the data; or give steps")] = None
    bf16: Annotated[
        bool | None, Means("true|false", "compute in bfloat16 (default: where the device has instructions for it)")
    ] = None
    patch_weight: Annotated[
        float,
        Means(
            "X",
            "of stage 1, of the loss between a picture's tokens and the words that are true of what they show, beside the loss "
            "of captions; 0: it is not computed",
        ),
    ] = 0.0
    patch_ramp: Annotated[float, Means("SHARE", "of the steps, while that weight rises from 0; 0 to 1")] = 0.0
    patch_loss: Annotated[
        str,
        Means(
            "contrastive|cosine",
            "a token is to be nearer to its words than to all others that the data knows; or as near to its own as can be",
        ),
    ] = "contrastive"
    patch_tokens: Annotated[
        str, Means("auto|all", "the tokens with a part of the picture of their own, or the others too, by their attention")
    ] = "auto"
    patch_targets: Annotated[
        str, Means("soft|hard", "of a token, all of its labels by what they cover, or the one that covers most")
    ] = "soft"
    patch_threshold: Annotated[float, Means("SHARE", "of what a token reads, the least that a label of it covers; 0 to 1")] = (
        0.5
    )
    patch_labels: Annotated[
        Path | None,
        Means("FILE", "what is where in the pictures, as pargo data patches writes it (default: what the data itself knows)"),
    ] = None
    tuning: Annotated[
        str, Means("lora|full", "of the language model in stage 2: LoRA, or all its weights and its head in fp32")
    ] = "lora"
    lora_rank: Annotated[int, Means("N", "rank of LoRA's updates, in stage 2")] = 256
    lora_alpha: Annotated[int, Means("N", "updates are multiplied by alpha / rank")] = 512
    lora_dropout: Annotated[float, Means("SHARE", "of LoRA's inputs left out at random; 0 to 1")] = 0.05
    lora_target_modules: Annotated[
        str | tuple[str, ...] | None,
        Means("NAMES", "layers that get LoRA, '[q_proj, v_proj]', or a regular expression (default: linear maps and experts)"),
    ] = None


def meanings() -> dict[str, tuple[Means, str]]:
    """Of every key, what it means and its default as a recipe would say it; "" where there is none or the text says it."""
    hints = typing.get_type_hints(RecipeKeys, include_extras=True)
    found = {}
    for field in fields(RecipeKeys):
        (means,) = hints[field.name].__metadata__
        found[field.name] = means, _as_written(field.default)
    return found


def recipe_names() -> list[str]:
    """The packaged recipes."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def _as_written(default) -> str:
    if default is None or default is MISSING:
        return ""
    return str(default).lower() if isinstance(default, bool) else f"{default:g}" if isinstance(default, float) else str(default)
