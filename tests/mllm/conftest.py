"""A whole model small enough for any test: 4 x 4 patches, 8 partial and 2 global tokens, a two-layer Llama."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, SiglipImageProcessorPil, SiglipVisionConfig

from pargo_kernels.c_path.library import why_not
from pargo_mllm import ParGoConfig, ParGoForConditionalGeneration, ParGoProcessor, ParGoProjectorConfig, build_projector
from pargo_mllm.language.tokenizer import word_tokenizer
from tests.mllm.made.sizes import PATCH, SIDE, WIDTH

WORDS = "red green blue circle square which colour is at the top what shape big small one two three yes no"
SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """A second thread only waits where everything is this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def kernels():
    """They are had before a test moves the cache, where they would be compiled again."""
    why_not(torch.float32)


@pytest.fixture(scope="session")
def shared():
    """Reference material beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: its reference material was not compared with")
    return SHARED


@pytest.fixture(scope="session")
def tokenizer():
    return word_tokenizer([WORDS])


@pytest.fixture(scope="session")
def processor(tokenizer):
    return ParGoProcessor(SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}), tokenizer, num_image_tokens=10)


@pytest.fixture(scope="session")
def make_config(tokenizer):
    """A ParGoConfig; keyword arguments go to the projector."""

    def make(**projector):
        return ParGoConfig(
            vision_config=SiglipVisionConfig(
                hidden_size=24,
                intermediate_size=48,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=SIDE,
                patch_size=PATCH,
                vision_use_head=False,
            ),
            text_config=LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                initializer_range=0.2,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            ),
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            vision_feature_select_strategy="full",
            projector_config={**projector_options(), **projector},
        )

    return make


def projector_options():
    return {
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_partial_tokens": 8,
        "num_global_tokens": 2,
        "initializer_range": 0.2,
        "query_initializer_range": 1.0,
        "output_initializer_range": 0.2,
    }


@pytest.fixture(scope="session")
def make_model(make_config):
    """A ParGoForConditionalGeneration with random weights, in evaluation mode; keyword arguments go to the projector."""

    def make(seed=0, **projector):
        torch.manual_seed(seed)
        return ParGoForConditionalGeneration(make_config(**projector)).eval()

    return make


@pytest.fixture(scope="session")
def make_projector():
    """A projector from 24 to 32 in fp64, with every parameter random: no bias is zero, no gain is one."""

    def make(seed=0, **options):
        torch.manual_seed(seed)
        config = ParGoProjectorConfig(**{**projector_options(), "vision_hidden_size": 24, "output_size": WIDTH, **options})
        projector = build_projector(config).double().eval()
        with torch.no_grad():
            for name, parameter in projector.named_parameters():
                if name.endswith("bias") or "norm" in name:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return projector

    return make


@pytest.fixture
def pictures():
    """Three pictures of noise, of different sizes."""
    generator = torch.Generator().manual_seed(5)
    sizes = ((SIDE, SIDE), (40, 30), (17, 64))
    return [
        Image.fromarray(torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8).numpy())
        for height, width in sizes
    ]
