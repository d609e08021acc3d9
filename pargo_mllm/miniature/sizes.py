"""The miniature: real classes (SigLIP's encoder, a Llama, ParGo between them), small enough for two CPU cores."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM, SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from pargo_mllm.configuration import ParGoConfig
from pargo_mllm.data.questions import Source
from pargo_mllm.data.scenes.corpus import SceneSource
from pargo_mllm.data.scenes.layout import CELL, SIDE
from pargo_mllm.data.sources.photographs_folder import FolderSource
from pargo_mllm.language.lora import LoraSettings
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.training.trainer.precision import computes_bf16
from pargo_mllm.training.trainer.settings import StageSettings

# of the scenes' pixels in 0...1, so that the encoder's inputs are centred
PIXEL_MEAN, PIXEL_STD = 0.3, 0.25


STAGE0 = ("encoder", "language")
STAGE0_SEED = 0
STAGES = ("captions", "answers")
# one linear map takes far larger steps than layers of attention: (stage 1, stage 2)
PROJECTOR_RATES = {"linear": (2e-2, 5e-3)}


@dataclass(frozen=True)
class Miniature:
    """Sizes and settings of a whole demonstration.

    ``encoder`` and ``language`` are stage 0a and 0b, ``captions`` stage 1, ``answers`` stage 2.
    """

    scenes: SceneSource = field(default_factory=SceneSource)
    photograph_views: int = 1200
    photograph_texts: int = 6000
    width: int = 128
    encoder_layers: int = 2
    language_layers: int = 2
    language_heads: int = 2
    projector_layers: int = 2
    num_partial_tokens: int = 32
    num_global_tokens: int = 4
    encoder: StageSettings = StageSettings(steps=300, batch_size=32, learning_rate=3e-3, warmup=0.1)
    language: StageSettings = StageSettings(steps=400, batch_size=24, learning_rate=3e-3, schedule="warmup_stable_decay")
    captions: StageSettings = StageSettings(steps=300, batch_size=16, learning_rate=2e-3)
    answers: StageSettings = StageSettings(steps=400, batch_size=16, learning_rate=2e-3, projector_learning_rate=1e-3)
    lora: LoraSettings = LoraSettings(rank=16, alpha=32, dropout=0.0)

    @property
    def patches(self) -> int:
        """Patches along a side of the picture."""
        return SIDE // CELL

    def on(self, device: str, seed: int) -> Miniature:
        """The same for a device ("cpu" or "cuda"), with another seed for the projector and the order of training.

        Stage 0 stands for parts that were trained before: it is the same for every seed.
        """
        hardware = {"use_cpu": device == "cpu", "bf16": computes_bf16(device)}
        stage0 = {name: replace(getattr(self, name), **hardware) for name in STAGE0}
        stages = {name: replace(getattr(self, name), seed=seed, **hardware) for name in STAGES}
        return replace(self, **stage0, **stages)

    def with_projector(self, projector: str) -> Miniature:
        """The same with the learning rates of a kind of projector."""
        if projector not in PROJECTOR_RATES:
            return self
        first, second = PROJECTOR_RATES[projector]
        return replace(
            self,
            captions=replace(self.captions, learning_rate=first),
            answers=replace(self.answers, projector_learning_rate=second),
        )

    def source(self, folder: Path | None, seed: int) -> Source:
        """The photographs of a COCO-style folder, or generated scenes."""
        if folder is None:
            return replace(self.scenes, seed=seed)
        return FolderSource(folder, train_views=self.photograph_views, text=self.photograph_texts, seed=seed)


TINY = Miniature(
    scenes=SceneSource(train=24, validation=8, test=8, text=24),
    photograph_views=24,
    photograph_texts=24,
    width=32,
    encoder_layers=1,
    projector_layers=2,
    encoder=StageSettings(steps=4, batch_size=8, learning_rate=3e-3),
    language=StageSettings(steps=4, batch_size=8, learning_rate=3e-3),
    captions=StageSettings(steps=3, batch_size=8, learning_rate=3e-3),
    answers=StageSettings(steps=3, batch_size=8, learning_rate=2e-3, projector_learning_rate=1e-3),
    lora=LoraSettings(rank=4, alpha=8, dropout=0.0),
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
    size: Miniature, vision_config, text_config, image_token_id: int, projector_type: str = "pargo"
) -> ParGoConfig:
    """The configuration of the whole model around trained parts."""
    return ParGoConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_id=image_token_id,
        vision_feature_select_strategy="full",
        projector_config={
            "projector_type": projector_type,
            "num_hidden_layers": size.projector_layers,
            "num_attention_heads": 4,
            "intermediate_size": 2 * size.width,
            "num_partial_tokens": size.num_partial_tokens,
            "num_global_tokens": size.num_global_tokens,
            # a narrow projector needs weights of unit gain, and tokens that differ from the start
            "initializer_range": size.width**-0.5,
            "query_initializer_range": 1.0,
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
