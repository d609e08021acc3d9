"""The real language model behind a small encoder and a fresh projector."""

import subprocess
import sys

import pytest
import torch
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from tests.mllm.made.real_parts import smollm2

PROJECTOR = "{num_partial_tokens: 16, num_global_tokens: 4, num_attention_heads: 4, num_hidden_layers: 2, hidden_size: 128}"


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="session")
def assembled(root):
    """(folder, what the command printed)."""
    folder, name = smollm2()
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, image_size=56, patch_size=7,
        vision_use_head=False,
    )  # fmt: skip
    SiglipVisionModel(config).save_pretrained(root / "encoder")
    SiglipImageProcessorPil(size={"height": 56, "width": 56}).save_pretrained(root / "encoder")
    arguments = ["--vision-model", root / "encoder", "--language-model", folder, "--gguf", name]
    command = [*arguments, "--projector", PROJECTOR, "--out", root / "assembled"]
    done = subprocess.run([sys.executable, "-m", "pargo_mllm", "assemble", *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root / "assembled", done.stdout
