"""Adapters as strangers and broken downloads leave them: merged, or refused in a line."""

import random
import shutil

import pytest

from pargo_mllm.checkpoints.merging import merge_adapter
from pargo_mllm.errors import UserError
from pargo_mllm.language.lora import LoraSettings, add_lora
from pargo_mllm.modeling import ParGoForConditionalGeneration
from tests.mllm.made.damage import damage
from tests.mllm.made.miniature_families import make_family


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seeds", [range(20), pytest.param(range(100, 400), marks=pytest.mark.long)], ids=["some", "many"])
def test_damaged_adapters_are_merged_or_refused(tmp_path, seeds):
    model, processor = make_family("vicuna")
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    adapted = add_lora(ParGoForConditionalGeneration.from_pretrained(tmp_path / "base"), LoraSettings(2, 4, 0.0))
    adapted.save_pretrained(tmp_path / "whole")
    merged = refused = 0
    for seed in seeds:
        random_ = random.Random(seed)
        adapter = shutil.copytree(tmp_path / "whole", tmp_path / f"adapter{seed}")
        name = random_.choice(("adapter_config.json", "adapter_config.json", "adapter_model.safetensors"))
        change = damage(adapter / name, random_)
        try:
            merge_adapter(adapter, tmp_path / f"out{seed}", tmp_path / "base")
            merged += 1
        except UserError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, {change}: {type(error).__name__} {error}") from error
    assert merged
    assert refused
