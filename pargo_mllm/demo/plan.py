"""What a demonstration is: the packaged recipes, what they start from, and the benchmark that judges what they give."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

from tqdm.auto import tqdm

from pargo_mllm.data.held_out import SPLITS
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.questions import QuestionCorpus
from pargo_mllm.data.scenes.corpus import Scenes
from pargo_mllm.demo.words import STAGES
from pargo_mllm.evaluation.benchmarks.scenes import ScenesBenchmark
from pargo_mllm.files import MANIFEST, file_digest, write_whole
from pargo_mllm.loading import open_model
from pargo_mllm.miniature.cache import FolderCache, settings_key
from pargo_mllm.miniature.parts import Parts
from pargo_mllm.miniature.sizes import SCALES
from pargo_mllm.miniature.start import MiniatureStart
from pargo_mllm.training.feature_store import EncodedCorpus, FeatureStore, encode_corpus
from pargo_mllm.training.recipes import DataPart, Recipe, load_recipe
from pargo_mllm.training.run import run_recipe

SCORES = "scores.json"
# one linear map takes far larger steps than layers of attention
RATES = {"linear": {1: {"learning_rate": "2e-2"}, 2: {"projector_learning_rate": "5e-3"}}}


@dataclass(frozen=True)
class DemoOptions:
    """What ``pargo demo`` was asked for.

    Args:
        data: a COCO-style folder of captioned photographs; generated scenes when None.
        compare: more projectors to train the same way, of :data:`COMPARABLE`.
        out: where results, models and report go.
        cache: where finished phases are kept; a run that was killed goes on from there.
        seed: of pictures, projector and order of training; stage 0 is the same for every seed.
        device: "auto" (the GPU where there is one), "cpu" or "cuda".
        scale: "demo", or "tiny", which learns nothing and checks in seconds that everything runs.
    """

    data: Path | None = None
    compare: tuple[str, ...] = ()
    out: Path = Path("pargo-demo")
    cache: Path | None = None
    seed: int = 0
    device: str = "auto"
    scale: str = "demo"


@dataclass(frozen=True)
class Demo:
    """The packaged recipes, what they start from, and the benchmark that judges what they give.

    Args:
        options: what was asked for.
        device: "cpu" or "cuda".
        cache: where stage 0, features, both stages and scores are kept.
        position: the progress bars' line, where two processes work side by side.
    """

    options: DemoOptions
    device: str
    cache: Path
    position: int = 0

    def beside(self) -> Demo:
        """The same for a second process: its progress bars are a line below."""
        return replace(self, position=self.position + 1)

    @property
    def projectors(self) -> tuple[str, ...]:
        """ParGo, and those to compare it with."""
        return ("pargo", *self.options.compare)

    @cached_property
    def data(self) -> Path | Scenes:
        """The photographs, or scenes of the seed."""
        scenes = SCALES[self.options.scale].scenes
        return self.options.data or replace(scenes, seed=self.options.seed)

    def recipe(self, projector: str, stage: int) -> Recipe:
        """The packaged recipe of a stage, for these data, this seed and this scale."""
        recipe = self._packaged(projector, stage)
        recipe = replace(recipe, data=(DataPart(self.data),), output=self.folder(projector, stage))
        if stage == 2:
            return replace(recipe, model=self.folder(projector, 1))
        asked = None if projector == "pargo" else {"projector_type": projector}
        return replace(recipe, miniature=self.options.scale, projector=asked)

    def _packaged(self, projector: str, stage: int) -> Recipe:
        changes = {"seed": str(self.options.seed), "report_to": "none", **SCALES[self.options.scale].changes.get(stage, {})}
        return load_recipe(f"mini-stage{stage}", {**changes, **RATES.get(projector, {}).get(stage, {})})

    @cached_property
    def work(self) -> Path:
        """Where both stages of every projector are kept, for these data, this seed and this scale."""
        recipes = [self._packaged("pargo", stage).identity() for stage in (1, 2)]
        data, lessons = self.corpora["train"].settings(), self.parts.lessons.settings()
        decisive = {"data": data, "lessons": lessons, "recipes": recipes, "scale": self.options.scale, "device": self.device}
        return self.cache / f"demo-{settings_key(decisive)}"

    def folder(self, projector: str, stage: int) -> Path:
        """Where a stage's model is kept."""
        return self.work / projector / f"stage{stage}"

    def published(self, projector: str, stage: int) -> Path:
        """Where the user finds it."""
        return self.options.out / "models" / projector / f"stage{stage}"

    @cached_property
    def parts(self) -> Parts:
        """Stage 0."""
        return Parts(SCALES[self.options.scale].on(self.device), self.data, self.cache, self.device, self.position)

    def start(self, projector: str = "pargo") -> MiniatureStart:
        """What stage 1 starts from."""
        recipe = self.recipe(projector, 1)
        return MiniatureStart(self.parts, recipe.projector, recipe.seed)

    @cached_property
    def corpora(self) -> dict[str, QuestionCorpus]:
        """The questions of each split."""
        recipe = self._packaged("pargo", 2)
        opened = {split: open_corpus(self.data, 2, split, views=recipe.views, seed=recipe.seed) for split in SPLITS}
        return cast(dict[str, QuestionCorpus], opened)

    def encoded(self, split: str) -> EncodedCorpus:
        """The same with the features of their pictures, which are computed where they are missing."""
        return self._encode(self.corpora[split], self.start().encoder_alone(), self.parts.processor)

    def train(self, projector: str) -> None:
        """Both stages; what is finished is left alone."""
        for stage in (1, 2):
            recipe, begin = self.recipe(projector, stage), time.perf_counter()
            was_finished = self.folder(projector, stage).exists()
            start = self.start(projector) if stage == 1 else None
            run_recipe(recipe, start, say=tqdm.write, cache=self.cache, device=self.device, position=self.position)
            if not was_finished:
                self.took(f"{projector}-stage{stage}", time.perf_counter() - begin)

    def took(self, what: str, seconds: float | None = None) -> float | None:
        """Keep the seconds that something took; without them, what was kept: None where a run was killed before it could."""
        file = self.work / f"{what}.seconds"
        if seconds is not None:
            self.work.mkdir(parents=True, exist_ok=True)
            write_whole(file, str(seconds))
        return float(file.read_text()) if file.exists() else None

    def scores(self, projector: str) -> dict[str, Any]:
        """What the benchmark says of a projector before stage 1 and after each stage, and the baselines."""
        stages = [self.folder(projector, stage) for stage in (1, 2)]
        settings = {
            "models": [file_digest(folder / MANIFEST) for folder in stages],
            "held_out": self.corpora["test"].settings(),
            "train": self.corpora["train"].settings(),
        }
        found = FolderCache(self.cache, tqdm.write).get(f"scores-{projector}", settings, partial(self._score, projector))
        return json.loads((found / SCORES).read_text())

    def _score(self, projector: str, folder: Path) -> None:
        begin = time.perf_counter()
        # with 4-D masks eager attention is the fastest at this size
        models: dict[str, Callable] = {"before": self.start(projector).load}
        models |= {
            f"stage{stage}": partial(open_model, self.folder(projector, stage), attn_implementation="eager") for stage in (1, 2)
        }
        scores: dict[str, Any] = {}
        for name, load in models.items():
            model, processor = load()
            model = model.to(self.device)
            encode = partial(self._encode, model=model, processor=processor)
            benchmark = ScenesBenchmark(self.corpora["train"], self.corpora["test"], encode, self.position)
            scores[name] = benchmark.score(model, processor, STAGES[name])
        scores["tokens"] = processor.num_image_tokens
        scores["baselines"] = benchmark.baselines(model, processor)
        (folder / SCORES).write_text(json.dumps({**scores, "seconds": time.perf_counter() - begin}))

    def _encode(self, corpus, model, processor) -> EncodedCorpus:
        bf16 = self._packaged("pargo", 1).settings(None, self.device).bf16
        return encode_corpus(corpus, model.to(self.device), processor, FeatureStore(self.cache / "features", model, bf16))
