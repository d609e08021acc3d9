"""``pargo demo``: encoder, ParGo and language model trained through both stages and judged on held-out pictures."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from tqdm.auto import tqdm

import pargo_kernels
from pargo_mllm.configuration import PROJECTORS
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.data.questions import QuestionCorpus
from pargo_mllm.data.scenes.corpus import Scenes
from pargo_mllm.demo.side_by_side import beside, cores, one_thread
from pargo_mllm.demo.words import NAMES, STAGES, limits, shows, table
from pargo_mllm.errors import UserError
from pargo_mllm.evaluation.benchmarks.scenes import ScenesBenchmark
from pargo_mllm.files import MANIFEST, default_cache, file_digest, write_whole
from pargo_mllm.loading import chosen_device, open_model
from pargo_mllm.miniature.cache import FolderCache
from pargo_mllm.miniature.parts import read_report
from pargo_mllm.miniature.sizes import SCALES
from pargo_mllm.miniature.start import MiniatureStart, miniature_start
from pargo_mllm.training.feature_store import EncodedCorpus, FeatureStore, encode_corpus
from pargo_mllm.training.recipes import DataPart, Recipe, load_recipe
from pargo_mllm.training.run import LOG, run_recipe

SCORES = "scores.json"
# points of a curve
LOGS = 20
# one linear map takes far larger steps than layers of attention
RATES = {"linear": {1: {"learning_rate": "2e-2"}, 2: {"projector_learning_rate": "5e-3"}}}
COMPARABLE = tuple(name for name in PROJECTORS if name != "pargo")


class DemoError(UserError):
    """The demonstration cannot run as asked; the message says why and what to do."""


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


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """Train, judge, draw and write everything into ``options.out``. Returns what ``results.json`` holds.

    Raises:
        DemoError, FolderError: if it cannot run as asked.
    """
    start = time.perf_counter()
    demo = prepare(options)
    _quiet()
    with one_thread():
        train(demo)
        results = collect(demo)
        results["attention"] = draw(demo)
    results["seconds"]["this run"] = time.perf_counter() - start
    write(results, options.out)
    tqdm.write(table(results))
    tqdm.write(f"Report: {options.out / 'report.html'}")
    return results


@dataclass(frozen=True)
class Demo:
    """The packaged recipes, what they start from, and the benchmark that judges what they give.

    Args:
        options: what was asked for.
        device: "cpu" or "cuda".
        cache: where stage 0, features and scores are kept.
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
        changes = {"seed": str(self.options.seed), "report_to": "none", **SCALES[self.options.scale].changes.get(stage, {})}
        recipe = load_recipe(f"mini-stage{stage}", {**changes, **RATES.get(projector, {}).get(stage, {})})
        recipe = replace(recipe, data=(DataPart(self.data),), output=self.folder(projector, stage))
        if stage == 2:
            return replace(recipe, model=self.folder(projector, 1))
        asked = None if projector == "pargo" else {"projector_type": projector}
        return replace(recipe, miniature=self.options.scale, projector=asked)

    def folder(self, projector: str, stage: int) -> Path:
        """Where a stage's model is."""
        return self.options.out / "models" / projector / f"stage{stage}"

    def start(self, projector: str = "pargo") -> MiniatureStart:
        """What stage 1 starts from."""
        start = miniature_start(self.recipe(projector, 1), self.cache, self.device, self.position)
        assert start is not None
        return start

    def corpus(self, split: str) -> QuestionCorpus:
        """The questions of a split."""
        recipe = self.recipe("pargo", 2)
        return cast(QuestionCorpus, open_corpus(self.data, 2, split, views=recipe.views, seed=recipe.seed))

    def encoded(self, split: str) -> EncodedCorpus:
        """The same with the features of their pictures, which are computed where they are missing."""
        start = self.start()
        return self._encode(self.corpus(split), start.encoder_alone(), start.parts.processor)

    def train(self, projector: str) -> None:
        """Both stages; what is finished is left alone."""
        for stage in (1, 2):
            recipe, begin = self.recipe(projector, stage), time.perf_counter()
            was_finished = recipe.output is not None and recipe.output.exists()
            start = self.start(projector) if stage == 1 else None
            run_recipe(recipe, start, say=tqdm.write, cache=self.cache, device=self.device, position=self.position)
            if not was_finished:
                taken = {"seconds": time.perf_counter() - begin}
                write_whole(self.folder(projector, stage).with_name(f"stage{stage}_seconds.json"), json.dumps(taken))

    def scores(self, projector: str) -> dict[str, Any]:
        """What the benchmark says of a projector before stage 1 and after each stage, and the baselines."""
        stages = [self.folder(projector, stage) for stage in (1, 2)]
        settings = {
            "models": [file_digest(folder / MANIFEST) for folder in stages],
            "held_out": self.corpus("test").settings(),
            "train": self.corpus("train").settings(),
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
            benchmark = ScenesBenchmark(self.corpus("train"), self.corpus("test"), encode, self.position)
            scores[name] = benchmark.score(model, processor, STAGES[name])
        scores["tokens"] = processor.num_image_tokens
        scores["baselines"] = benchmark.baselines(model, processor)
        (folder / SCORES).write_text(json.dumps({**scores, "seconds": time.perf_counter() - begin}))

    def _encode(self, corpus, model, processor) -> EncodedCorpus:
        bf16 = self.recipe("pargo", 1).settings(None, self.device).bf16
        return encode_corpus(corpus, model.to(self.device), processor, FeatureStore(self.cache / "features", model, bf16))


def prepare(options: DemoOptions) -> Demo:
    """Check what was asked for, before anything is computed."""
    for module, package in (("matplotlib", "matplotlib"), ("skimage", "scikit-image")):
        if importlib.util.find_spec(module) is None:
            raise DemoError(f"pargo demo needs {package}, which is not installed: pip install 'pargo[demo]'")
    demo = Demo(options, chosen_device(options.device), options.cache or default_cache())
    # an encoder learns nothing from photographs that nobody labelled: said now, not after the language model
    demo.start().parts.lessons.check()
    for argument, folder in (("--out", options.out), ("--cache", demo.cache)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DemoError(f"{argument} {folder} cannot be made: {error.strerror}.") from error
        if not os.access(folder, os.W_OK):
            raise DemoError(f"{argument} {folder} cannot be written to; choose another folder.")
    return demo


def train(demo: Demo) -> None:
    """All stages, for ParGo and for the projectors to compare it with. On two cores and no GPU, side by side."""
    several, compare = demo.device == "cpu" and cores() > 1, demo.options.compare
    if several:
        with beside(partial(encode_all, demo.beside()), tqdm.write):
            demo.start().parts.language_model()
    encode_all(demo)
    if several and compare:
        with beside(partial(judge_all, demo.beside(), compare), tqdm.write):
            judge_all(demo, ("pargo",))
    judge_all(demo, demo.projectors)


def encode_all(demo: Demo) -> None:
    """Stage 0a and the features of all pictures."""
    _quiet()
    demo.start().parts.encoder()
    begin = time.perf_counter()
    for split in ("train", "test"):
        demo.encoded(split)
    file = demo.options.out / "features_seconds.json"
    if not file.exists():
        write_whole(file, json.dumps({"seconds": time.perf_counter() - begin}))


def judge_all(demo: Demo, projectors: tuple[str, ...]) -> None:
    """Stage 1, stage 2 and the benchmark for every projector."""
    _quiet()
    for projector in projectors:
        demo.train(projector)
        demo.scores(projector)


def collect(demo: Demo) -> dict[str, Any]:
    """What was found, as ``results.json`` holds it. Shares lie in 0...1."""
    options, parts = demo.options, demo.start().parts
    seconds = {
        "stage 0b, language model": read_report(parts.language_model())["seconds"],
        "stage 0a, encoder": read_report(parts.encoder())["seconds"],
        "features": _seconds(options.out / "features_seconds.json"),
    }
    projectors = []
    for projector in demo.projectors:
        name, scores = NAMES.get(projector, projector), demo.scores(projector)
        for stage in (1, 2):
            seconds[f"stage {stage}, {name}"] = _seconds(options.out / "models" / projector / f"stage{stage}_seconds.json")
        seconds[f"benchmark, {name}"] = scores["seconds"]
        losses = {f"stage{stage}": _shortened(demo.folder(projector, stage) / LOG) for stage in (1, 2)}
        stages = {stage: scores[stage] for stage in ("before", "stage1", "stage2")}
        projectors.append({"name": name, "tokens": scores["tokens"], **stages, "loss": losses})
    encoded = {split: demo.encoded(split) for split in ("train", "test")}
    for corpus in encoded.values():
        for index in corpus.unreadable:
            tqdm.write(f"skipped {corpus[index].name}: {_fault(corpus, index)}")
    results: dict[str, Any] = {
        "data": {
            "name": "generated scenes" if options.data is None else f"photographs of {options.data.resolve().name}",
            **{split: len(corpus) - len(corpus.unreadable) for split, corpus in encoded.items()},
            "questions": demo.scores("pargo")["stage2"]["questions"],
            "skipped": sum(len(corpus.unreadable) for corpus in encoded.values()),
        },
        "seed": options.seed,
        "scale": options.scale,
        "projectors": projectors,
        "baselines": demo.scores("pargo")["baselines"],
        "seconds": seconds,
        "device": _describe(demo.device),
        "versions": _versions(),
        "attention": [],
    }
    return {**results, "shows": shows(results), "limits": limits(results, options.data is not None)}


def draw(demo: Demo) -> list[str]:
    """Pictures of what ParGo's tokens looked at: a held-out scene and a photograph, or two held-out photographs."""
    from pargo_mllm.data.scenes.photographs import photograph
    from pargo_mllm.pictures.attention import draw_token_attention

    held_out, unreadable = demo.corpus("test"), demo.encoded("test").unreadable
    readable = [index for index in range(len(held_out)) if index not in unreadable]
    if demo.options.data is None:
        # the first one with details in it: some scenes are a photograph and nothing else
        scene = next((index for index in readable if len(held_out.said(index)) > 1), readable[0])
        wanted = {
            "attention_scene.png": (held_out.picture(scene), f"A held-out picture: {held_out.name(scene)}"),
            "attention_photograph.png": (photograph("astronaut"), "A whole photograph; the model was trained on scenes"),
        }
    else:
        wanted = {
            f"attention_photograph{'' if place == 0 else f'_{place + 1}'}.png": (
                held_out.picture(index),
                f"Held out: {held_out.name(index)}",
            )
            for place, index in enumerate(readable[:2])
        }
    model, processor = open_model(demo.folder("pargo", 2), attn_implementation="eager")
    for name, (picture, title) in tqdm(wanted.items(), desc="pictures of attention", unit="picture", dynamic_ncols=True):
        draw_token_attention(model, processor, picture, demo.options.out / name, title=title, device=demo.device)
    return list(wanted)


def write(results: dict[str, Any], out: Path) -> None:
    """``results.json`` and the report."""
    from pargo_mllm.demo.report import write_report

    write_whole(out / "results.json", json.dumps(results, indent=2))
    write_report(out, results)


def _quiet() -> None:
    """The bars and lines on the screen are the demonstration's own."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def _describe(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu, {cores()} cores"


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "peft", "accelerate")
    return {
        "pargo": pargo_kernels.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def _seconds(file: Path) -> float:
    return json.loads(file.read_text())["seconds"]


def _shortened(file: Path) -> list[dict[str, float]]:
    """A log of at most :data:`LOGS` entries: means over as many steps each."""
    log = json.loads(file.read_text())
    each = -(-len(log) // LOGS)
    groups = [log[first : first + each] for first in range(0, len(log), each)]
    return [{"step": group[-1]["step"], "loss": sum(entry["loss"] for entry in group) / len(group)} for group in groups]


def _fault(corpus: EncodedCorpus, index: int) -> str:
    try:
        for load in corpus[index].pictures:
            load()
    except (PictureError, OSError) as error:
        return str(error)
    return "it could not be read before"
