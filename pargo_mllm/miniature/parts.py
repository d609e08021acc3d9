"""Stage 0: a small encoder and a small language model, trained once and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import LlamaForCausalLM, SiglipVisionModel

from pargo_mllm.data.corpus import about_image
from pargo_mllm.data.feeding.conversations import ConversationEncoder
from pargo_mllm.data.scenes.corpus import Scenes
from pargo_mllm.language.tokenizer import word_tokenizer
from pargo_mllm.miniature.cache import FolderCache
from pargo_mllm.miniature.lessons import Lessons
from pargo_mllm.miniature.sizes import Miniature, build_encoder, build_language_model, build_processor
from pargo_mllm.miniature.stage0_encoder import PatchLabelDataset, read_pixels, train_encoder
from pargo_mllm.miniature.stage0_language import FactDataset, ToldFacts, train_language_model
from pargo_mllm.processing import ParGoProcessor

ENCODER = ("width", "encoder_layers", "encoder")
LANGUAGE = ("width", "language_layers", "language_heads", "num_partial_tokens", "num_global_tokens", "language")
REPORT = "phase.json"


@dataclass(frozen=True)
class Parts:
    """What a miniature starts from. Methods that train return a complete folder, an earlier one where there is one.

    Args:
        size: of the parts, and how they are trained.
        data: what the stages will learn from, whose kind the lessons are of.
        cache: where finished ones are kept.
        device: "cpu" or "cuda".
        position: the progress bars' line, where two processes work side by side.
    """

    size: Miniature
    data: Path | Scenes
    cache: Path
    device: str
    position: int = 0

    def beside(self) -> Parts:
        """The same for a second process: its progress bars are a line below."""
        return replace(self, position=self.position + 1)

    @cached_property
    def lessons(self) -> Lessons:
        """What they learn from."""
        return self.size.lessons(self.data)

    @cached_property
    def processor(self) -> ParGoProcessor:
        """For ParGo's number of tokens."""
        return build_processor(
            word_tokenizer(self.lessons.vocabulary()), self.size.num_partial_tokens + self.size.num_global_tokens
        )

    def language_model(self) -> Path:
        """Stage 0b: ``llm``, a small Llama that learned to answer from text."""
        return self._folder("stage0-language", LANGUAGE, self._train_language_model)

    def encoder(self) -> Path:
        """Stage 0a: ``encoder``, a small SigLIP encoder that learned what patches show."""
        return self._folder("stage0-encoder", ENCODER, self._train_encoder)

    def trained_encoder(self) -> SiglipVisionModel:
        """The encoder of stage 0a."""
        return SiglipVisionModel.from_pretrained(self.encoder() / "encoder")

    def trained_language_model(self) -> LlamaForCausalLM:
        """The language model of stage 0b."""
        return LlamaForCausalLM.from_pretrained(self.language_model() / "llm")

    def fresh_language_model(self) -> LlamaForCausalLM:
        """What stage 0b begins with."""
        torch.manual_seed(self.size.language.seed)
        tokenizer = self.processor.tokenizer
        return build_language_model(self.size, len(tokenizer), tokenizer.pad_token_id)

    def _folder(self, name: str, fields: tuple[str, ...], build: Callable[[Path], dict[str, Any]]) -> Path:
        def build_and_report(folder: Path) -> None:
            start = time.perf_counter()
            report = build(folder)
            (folder / REPORT).write_text(json.dumps({**report, "seconds": time.perf_counter() - start}))

        # one that was found complete is not checked again
        if name not in self._finished:
            every = asdict(self.size)
            settings = {"lessons": self.lessons.settings(), "device": self.device, **{field: every[field] for field in fields}}
            self._finished[name] = FolderCache(self.cache, tqdm.write).get(name, settings, build_and_report)
        return self._finished[name]

    @cached_property
    def _finished(self) -> dict[str, Path]:
        return {}

    def _train_language_model(self, folder: Path) -> dict[str, Any]:
        processor, tokenizer, settings = self.processor, self.processor.tokenizer, self.size.language
        encoder = ConversationEncoder(processor)
        told = [
            ToldFacts(
                [tuple(tokenizer.convert_tokens_to_ids(list(fact))) for fact in lesson.facts],
                encoder.encode_conversations([about_image(said.text, said.answer) for said in lesson.conversations]),
            )
            for lesson in self.lessons.text_lessons()
            if lesson.conversations
        ]
        dataset = FactDataset(told, processor.num_image_tokens, processor.image_token_id, settings.seed)
        model = self.fresh_language_model()
        log = train_language_model(
            model,
            dataset,
            processor.image_token_id,
            tokenizer.pad_token_id,
            settings,
            folder / "trainer",
            position=self.position,
        )
        model.save_pretrained(folder / "llm")
        return {"loss": log}

    def _train_encoder(self, folder: Path) -> dict[str, Any]:
        pictures, labels, num_labels = self.lessons.patch_lessons(self.size.patches)
        pixels, kept = read_pixels(self.processor.image_processor, pictures, self.position)
        torch.manual_seed(self.size.encoder.seed)
        encoder = build_encoder(self.size)
        dataset = PatchLabelDataset(pixels, labels[kept])
        log = train_encoder(encoder, dataset, num_labels, self.size.encoder, folder / "trainer", self.position)
        encoder.save_pretrained(folder / "encoder")
        return {"loss": log}


def read_report(folder: Path) -> dict[str, Any]:
    """What was reported beside the weights: losses, and the seconds it took."""
    return json.loads((folder / REPORT).read_text())
