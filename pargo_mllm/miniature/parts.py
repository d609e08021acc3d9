"""The phases of the demonstration. Each leaves one folder in the cache and reads those of the phases before it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformers import LlamaForCausalLM, SiglipVisionModel

from pargo_mllm.assembly import assemble
from pargo_mllm.data.feeding.conversations import ConversationEncoder
from pargo_mllm.data.feeding.datasets import ImageInputs, PackedDataset, about_pictures, cached_features
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.data.questions import Sample, Source
from pargo_mllm.evaluation.constant import best_constant_score
from pargo_mllm.evaluation.exact_match import Score, exact_match, shuffled
from pargo_mllm.language.tokenizer import word_tokenizer
from pargo_mllm.miniature.cache import FolderCache
from pargo_mllm.miniature.sizes import Miniature, build_config, build_encoder, build_language_model, build_processor
from pargo_mllm.miniature.stage0_encoder import PatchLabelDataset, train_encoder
from pargo_mllm.miniature.stage0_language import FactDataset, ToldFacts, train_language_model
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.training.stages import stage1, stage2
from pargo_mllm.training.trainer.frozen_features import encode_samples, read_pixels

ENCODER = ("width", "encoder_layers", "encoder")
LANGUAGE = ("width", "language_layers", "language_heads", "num_partial_tokens", "num_global_tokens", "language")
STAGE1 = (*ENCODER, *LANGUAGE, "projector_layers", "captions")
STAGE2 = (*STAGE1, "answers", "lora")
REPORT = "phase.json"


@dataclass(frozen=True)
class Phases:
    """What is computed, from what, and where it is kept. Every method returns the phase's complete folder.

    Args:
        size: the sizes and settings of the models and stages.
        source: the pictures of stage 1, stage 2 and evaluation.
        lessons: what stage 0 learns from.
        cache: where finished phases are.
        device: "cpu" or "cuda".
        position: the progress bars' line, where two processes work side by side.
    """

    size: Miniature
    source: Source
    lessons: Source
    cache: Path
    device: str
    position: int = 0

    def beside(self) -> Phases:
        """The same for a second process: its progress bars are a line below."""
        return replace(self, position=self.position + 1)

    def language_model(self) -> Path:
        """Stage 0b: ``llm``, a small Llama that learned to answer from text."""
        return self._phase("stage0-language", LANGUAGE, self._train_language_model)

    def encoder(self) -> Path:
        """Stage 0a: ``encoder``, a small SigLIP encoder that learned what patches show."""
        return self._phase("stage0-encoder", ENCODER, self._train_encoder)

    def features(self) -> Path:
        """The encoder's features of every picture that can be read, by split."""
        encoder = self.encoder()
        return self._phase("features", ENCODER, lambda folder: self._encode(encoder, folder))

    def stage1(self, projector: str) -> Path:
        """``model``: the projector trained on captions, all else frozen."""
        return self._phase(f"stage1-{projector}", STAGE1, lambda folder: self._train_stage1(projector, folder))

    def stage2(self, projector: str) -> Path:
        """``model`` (LoRA folded in) and ``model/adapter``: projector and LoRA trained on questions."""
        before = self.stage1(projector)
        return self._phase(f"stage2-{projector}", STAGE2, lambda folder: self._train_stage2(projector, before, folder))

    def evaluation(self, projector: str) -> Path:
        """``phase.json`` with held-out accuracy before stage 1, after it and after stage 2, and with the baselines."""
        self.stage2(projector)
        return self._phase(f"evaluation-{projector}", STAGE2, lambda folder: self._evaluate(projector))

    @cached_property
    def processor(self) -> ParGoProcessor:
        """For ParGo's number of tokens."""
        return build_processor(
            word_tokenizer(self.lessons.vocabulary()), self.size.num_partial_tokens + self.size.num_global_tokens
        )

    def held_out_scores(self, projector: str) -> dict[str, Any]:
        """What :meth:`evaluation` found."""
        return read_report(self.evaluation(projector))

    def held_out(self) -> list[Sample]:
        """The held-out pictures that can be read."""
        return self._readable("test")[0]

    def _phase(self, name: str, fields: tuple[str, ...], build: Callable[[Path], dict[str, Any]]) -> Path:
        def build_and_report(folder: Path) -> None:
            start = time.perf_counter(), time.process_time()
            report = build(folder)
            seconds = {"seconds": time.perf_counter() - start[0], "cpu_seconds": time.process_time() - start[1]}
            (folder / REPORT).write_text(json.dumps({**report, **seconds}))

        # a phase found complete is not checked again: the features are large
        if name not in self._finished:
            every = asdict(self.size)
            settings = {**self._settings, "device": self.device, **{field: every[field] for field in fields}}
            if name.startswith("stage0"):
                # other pictures later on do not change what was learned before
                del settings["pictures"]
            self._finished[name] = FolderCache(self.cache, tqdm.write).get(name, settings, build_and_report)
        return self._finished[name]

    @cached_property
    def _finished(self) -> dict[str, Path]:
        return {}

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return {"lessons": self.lessons.settings(), "pictures": self.source.settings()}

    def _train_language_model(self, folder: Path) -> dict[str, Any]:
        processor, tokenizer, settings = self.processor, self.processor.tokenizer, self.size.language
        lessons = [lesson for lesson in self.lessons.text_lessons() if lesson.conversations]
        encoded = ConversationEncoder(processor).encode_questions([lesson.conversations for lesson in lessons])
        told = [
            ToldFacts([tuple(tokenizer.convert_tokens_to_ids(list(fact))) for fact in lesson.facts], conversations)
            for lesson, conversations in zip(lessons, encoded, strict=True)
        ]
        dataset = FactDataset(told, processor.num_image_tokens, processor.image_token_id, settings.seed)
        model = self._fresh_language_model()
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
        samples, labels, num_labels = self.lessons.patch_lessons(self.size.patches)
        pixels, kept, skipped = read_pixels(
            self.processor.image_processor, samples, title="stage 0a: pictures", position=self.position
        )
        _check_readable("train", kept, skipped)
        torch.manual_seed(self.size.encoder.seed)
        encoder = build_encoder(self.size)
        dataset = PatchLabelDataset(pixels, labels[kept])
        log = train_encoder(encoder, dataset, num_labels, self.size.encoder, folder / "trainer", self.position)
        encoder.save_pretrained(folder / "encoder")
        return {"loss": log}

    def _encode(self, encoder: Path, folder: Path) -> dict[str, Any]:
        model = self._around(SiglipVisionModel.from_pretrained(encoder / "encoder")).model.to(self.device)
        report: dict[str, Any] = {"readable": {}, "skipped": {}}
        for split in ("train", "test"):
            encoded = encode_samples(
                model,
                self.processor.image_processor,
                self.source.samples(split),
                title=f"features of the {split} pictures",
                position=self.position,
            )
            _check_readable(split, encoded.kept, encoded.skipped)
            save_file({"features": encoded.features}, folder / f"{split}.safetensors")
            report["readable"][split] = encoded.kept
            report["skipped"].update(encoded.skipped)
        return report

    def _train_stage1(self, projector: str, folder: Path) -> dict[str, Any]:
        model, processor = self.untrained(projector)
        captions, _ = self._dataset("train", "captions", processor)
        settings = self.size.with_projector(projector).captions
        log = stage1(model, processor, captions, settings, folder / "model", tqdm.write, self.position)
        return {"loss": log}

    def _train_stage2(self, projector: str, before: Path, folder: Path) -> dict[str, Any]:
        model, processor = load_trained(before / "model")
        answers, _ = self._dataset("train", "questions", processor)
        size = self.size.with_projector(projector)
        _, log = stage2(model, processor, answers, size.answers, size.lora, folder / "model", tqdm.write, self.position)
        return {"loss": log}

    def _evaluate(self, projector: str) -> dict[str, Any]:
        stages = {
            "before": self.untrained(projector),
            "stage1": load_trained(self.stage1(projector) / "model"),
            "stage2": load_trained(self.stage2(projector) / "model"),
        }
        report: dict[str, Any] = {}
        for stage, (model, processor) in stages.items():
            report[stage] = _shares(self._score(model, processor, f"held-out questions, {stage}"))
        report["tokens"] = processor.num_image_tokens
        hidden = self._score(model, processor, "text only", hide_pictures=True)
        others = self._score(model, processor, "shuffled pictures", shuffle=True)
        constant = best_constant_score(self._readable("train")[0], self._readable("test")[0])
        report["baselines"] = {"constant": _shares(constant), "text_only": _shares(hidden), "shuffled": _shares(others)}
        report["questions"] = sum(constant.asked.values())
        return report

    def _score(self, model, processor, title: str, shuffle: bool = False, hide_pictures: bool = False) -> Score:
        questions, kinds = self._dataset("test", "questions", processor)
        if shuffle:
            questions.image_inputs = shuffled(questions.image_inputs, len(questions))
        return exact_match(
            model.to(self.device),
            questions,
            kinds,
            processor.tokenizer.pad_token_id,
            hide_pictures=hide_pictures,
            title=title,
            position=self.position,
        )

    def untrained(self, projector: str) -> tuple[ParGoForConditionalGeneration, ParGoProcessor]:
        """The parts of stage 0 around a fresh projector, and the processor."""
        encoder = SiglipVisionModel.from_pretrained(self.encoder() / "encoder")
        model = self._around(encoder, LlamaForCausalLM.from_pretrained(self.language_model() / "llm"), projector)
        return model, build_processor(self.processor.tokenizer, model.config.num_image_tokens)

    def _around(
        self, encoder: SiglipVisionModel, language_model: LlamaForCausalLM | None = None, projector: str = "pargo"
    ) -> ParGoForConditionalGeneration:
        """The whole model with a fresh projector; without a language model, which encoding needs none of, a fresh one too."""
        if language_model is None:
            language_model = self._fresh_language_model()
        config = build_config(self.size, encoder.config, language_model.config, self.processor.image_token_id, projector)
        model = assemble(config, encoder, language_model, self.size.captions.seed)
        model.set_attn_implementation("eager")
        return model

    def _fresh_language_model(self) -> LlamaForCausalLM:
        torch.manual_seed(self.size.language.seed)
        tokenizer = self.processor.tokenizer
        return build_language_model(self.size, len(tokenizer), tokenizer.pad_token_id)

    def _readable(self, split: str) -> tuple[list[Sample], ImageInputs]:
        features = self.features()
        samples, kept = self.source.samples(split), read_report(features)["readable"][split]
        return [samples[index] for index in kept], cached_features(load_file(features / f"{split}.safetensors")["features"])

    def _dataset(self, split: str, what: str, processor: ParGoProcessor) -> tuple[PackedDataset, list[list[str]]]:
        """Captions or questions of a split, packed by picture, and the kind of each; pictures without any are left out."""
        samples, image_inputs = self._readable(split)
        dataset, kept = about_pictures(processor, samples, what, image_inputs)
        return dataset, [[question.kind for question in getattr(samples[index], what)] for index in kept]


def load_trained(folder: Path) -> tuple[ParGoForConditionalGeneration, ParGoProcessor]:
    """A model folder of the demonstration. Eager attention: with 4-D masks it is the fastest at this size."""
    model = ParGoForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    return model, ParGoProcessor.from_pretrained(folder)


def read_report(phase: Path) -> dict[str, Any]:
    """What a phase reported beside its weights: losses, accuracies, and the seconds it took."""
    return json.loads((phase / REPORT).read_text())


def _check_readable(split: str, kept: list[int], skipped: dict[str, str]) -> None:
    if not kept:
        raise PictureError(
            f"none of the {len(skipped)} {split} pictures can be read; the first: {next(iter(skipped.values()))}"
        )


def _shares(score: Score) -> dict[str, Any]:
    return {"mean": score.mean, "kinds": {kind: score.accuracy(kind) for kind in score.asked}}
