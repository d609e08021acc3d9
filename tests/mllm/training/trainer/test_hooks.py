"""The hooks of transformers' Trainer that this package overrides, most of them private: an upgrade that moves one says so."""

import inspect

import pytest
import torch
import transformers
from transformers import Trainer

from pargo_mllm.data.feeding.collation import RowCollator
from pargo_mllm.training.trainer.measured_trainer import MeasuredTrainer
from pargo_mllm.training.trainer.parts import freeze_all_but
from pargo_mllm.training.trainer.settings import StageSettings
from pargo_mllm.training.trainer.stage_trainer import ParGoTrainer, Stage, train
from tests.mllm.made.items import items_about

PAIRS = [("what shape", "circle"), ("which colour is at the top", "red")]
# what this package relies on: the parameters, in order
HOOKS = {
    "create_accelerator_and_postprocess": [],
    "create_optimizer": ["model"],
    "get_batch_samples": ["epoch_iterator", "num_batches", "device"],
    "log": ["logs", "start_time"],
    "save_model": ["output_dir", "_internal_call"],
    "_clip_grad_norm": ["model"],
    "_get_output_dir": ["trial"],
    "_get_train_sampler": ["train_dataset"],
    "_load_from_checkpoint": ["resume_from_checkpoint", "model"],
    "_load_optimizer_and_scheduler": ["checkpoint"],
    "_move_model_to_device": ["model", "device"],
    "_prepare_for_training": ["max_steps", "train_dataloader", "resume_from_checkpoint"],
    "_prepare_inputs": ["inputs"],
    "_save_checkpoint": ["model", "trial"],
    "_save_optimizer_and_scheduler": ["output_dir"],
}
# what is called without being overridden
USED = {"_get_num_items_in_batch": ["batch_samples", "device"]}


def test_every_hook_is_listed():
    own = {name for kind in (ParGoTrainer, MeasuredTrainer) for name in vars(kind) if hasattr(Trainer, name)}
    # evaluate() is public, and replaced as a whole
    assert own - {"evaluate"} == {*HOOKS, *(name for name in own if name.startswith("__"))}


@pytest.mark.parametrize("name", [*HOOKS, *USED])
def test_the_hook_has_its_parameters(name):
    hook = getattr(Trainer, name, None)
    assert hook is not None, f"Trainer.{name} is gone from transformers {transformers.__version__}"
    parameters = list(inspect.signature(hook).parameters)[1:]
    assert parameters[: len((HOOKS | USED)[name])] == (HOOKS | USED)[name]


@pytest.fixture(scope="module")
def called(make_model, processor, tmp_path_factory):
    """How often Trainer called each hook while it trained, wrote checkpoints, and went on from one."""
    counts = dict.fromkeys(HOOKS, 0)
    folder = tmp_path_factory.mktemp("hooks")
    features = torch.randn(6, 16, 24, generator=torch.Generator().manual_seed(0))
    items, collate = items_about(processor, [PAIRS] * 6, features), RowCollator(processor.tokenizer.pad_token_id, pack=False)
    with pytest.MonkeyPatch.context() as patch:
        for name in HOOKS:
            patch.setattr(ParGoTrainer, name, counting(getattr(ParGoTrainer, name), name, counts))
        for steps in (2, 3):
            model = make_model()
            freeze_all_but(model, "projector")
            settings = StageSettings(
                steps=steps, batch_size=2, learning_rate=1e-2, bf16=False, save_steps=1, report_to="none", use_cpu=True
            )
            train(model, Stage(items, collate, settings, folder))
    return counts


def counting(hook, name, counts):
    def counted(self, *arguments, **options):
        counts[name] += 1
        return hook(self, *arguments, **options)

    return counted


@pytest.mark.parametrize("name", HOOKS)
def test_trainer_still_calls_the_hook(called, name):
    assert called[name], (
        f"transformers {transformers.__version__} trains, saves and resumes without calling Trainer.{name}: what ParGoTrainer "
        "does there needs another place"
    )
