"""The miniature: real classes (SigLIP's encoder, a Llama, ParGo between them), small enough for two CPU cores."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from pargo_mllm.configuration import ParGoConfig
from pargo_mllm.data.scenes.corpus import Scenes
from pargo_mllm.data.scenes.layout import CELL, SIDE
from pargo_mllm.data.sources.photographs_folder import PhotographFolder
from pargo_mllm.loading import computes_bf16
from pargo_mllm.miniature.lessons import Lessons, PhotographLessons, SceneLessons
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.training.trainer.settings import StageSettings

# of the scenes' pixels in 0...1, so that the encoder's inputs are centred
PIXEL_MEAN, PIXEL_STD = 0.3, 0.25


STAGE0_SEED = 0
# it takes less time than to go on with it would
STAGE0 = StageSettings(steps=1, learning_rate=3e-3, save_steps=None, report_to="none")
# what stage 0 learns in, of photographs: views, told layouts, and how many photographs at most
PHOTOGRAPH_VIEWS, PHOTOGRAPHS = 1200, 2000


@dataclass(frozen=True)
class Miniature:
    """Sizes of the parts, and how stage 0 trains them: ``encoder`` is stage 0a, ``language`` stage 0b.

    How stages 1 and 2 train stands in the packaged recipes; ``changes`` are values for their keys, by stage.
    """

    scenes: Scenes = field(default_factory=Scenes)
    scene_texts: int = 8000
    photograph_views: int = PHOTOGRAPH_VIEWS
    photograph_texts: int = 6000
    width: int = 128
    encoder_layers: int = 2
    language_layers: int = 2
    language_heads: int = 2
    projector_layers: int = 2
    num_partial_tokens: int = 32
    num_global_tokens: int = 4
    encoder: StageSettings = replace(STAGE0, steps=300, batch_size=32, warmup=0.1)
    language: StageSettings = replace(STAGE0, steps=400, batch_size=24, schedule="warmup_stable_decay")
    changes: dict[int, dict[str, str]] = field(default_factory=dict)

    @property
    def patches(self) -> int:
        """Patches along a side of the picture."""
        return SIDE // CELL

    def on(self, device: str) -> Miniature:
        """The same for a device ("cpu" or "cuda")."""
        on_cpu, bf16 = device == "cpu", computes_bf16(device)
        encoder = replace(self.encoder, use_cpu=on_cpu, bf16=bf16)
        return replace(self, encoder=encoder, language=replace(self.language, use_cpu=on_cpu, bf16=bf16))

    def lessons(self, data: Path | Scenes) -> Lessons:
        """What stage 0 learns from where the stages learn from ``data``: the same for every seed of the data."""
        if isinstance(data, Scenes):
            return SceneLessons(self.scenes, self.scene_texts)
        folder = PhotographFolder(data, PHOTOGRAPHS, self.photograph_views, seed=STAGE0_SEED)
        return PhotographLessons(folder, self.photograph_texts)


TINY = Miniature(
    scenes=Scenes(train=24, held_out=8),
    scene_texts=24,
    photograph_views=24,
    photograph_texts=24,
    width=32,
    encoder_layers=1,
    projector_layers=2,
    encoder=replace(STAGE0, steps=4, batch_size=8),
    language=replace(STAGE0, steps=4, batch_size=8),
    changes={
        1: {"steps": "3", "batch_size": "8", "learning_rate": "3e-3", "views": "24"},
        2: {"steps": "3", "batch_size": "8", "learning_rate": "2e-3", "lora_rank": "4", "lora_alpha": "8", "views": "24"},
    },
)
SCALES = {"demo": Miniature(), "tiny": TINY}


def build_encoder(size: Miniature) -> SiglipVisionModel:
    """A SigLIP vision encoder with fresh weights. Its features leave a LayerNorm, which the projector learns from faster."""
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=size.width,
            intermediate_size=4 * size.width,
            num_hidden_layers=size.encoder_layers,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=CELL,
            vision_use_head=False,
        )
    )


def build_language_model(size: Miniature, vocabulary: int, pad_token_id: int) -> LlamaForCausalLM:
    """A Llama with fresh weights. Eager attention: with 4-D masks it is the fastest at this size."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=size.width,
        intermediate_size=2 * size.width,
        num_hidden_layers=size.language_layers,
        num_attention_heads=size.language_heads,
        max_position_embeddings=512,
        # wider than usual: a narrow model finds its way from the question to the fact much sooner
        initializer_range=0.045,
        pad_token_id=pad_token_id,
        tie_word_embeddings=False,
    )
    config._attn_implementation = "eager"
    return LlamaForCausalLM(config)


def build_config(
    size: Miniature, vision_config, text_config, image_token_id: int, projector: dict[str, Any] | None = None
) -> ParGoConfig:
    """The configuration of the whole model around trained parts; ``projector`` has arguments in place of the usual ones."""
    return ParGoConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_id=image_token_id,
        vision_feature_select_strategy="full",
        projector_config={
            "projector_type": "pargo",
            "num_hidden_layers": size.projector_layers,
            "num_attention_heads": 4,
            "intermediate_size": 2 * size.width,
            "num_partial_tokens": size.num_partial_tokens,
            "num_global_tokens": size.num_global_tokens,
            # a narrow projector needs weights of unit gain, and tokens that differ from the start
            "initializer_range": size.width**-0.5,
            "query_initializer_range": 1.0,
            **(projector or {}),
        },
    )


def build_processor(tokenizer, num_image_tokens: int) -> ParGoProcessor:
    """The processor: pictures of any size become 112 x 112."""
    image_processor = SiglipImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    return ParGoProcessor(image_processor, tokenizer, num_image_tokens=num_image_tokens)
