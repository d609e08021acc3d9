"""``pargo demo``: encoder, ParGo and language model trained through both stages and judged on held-out pictures."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import time
import warnings
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm

import pargo_kernels
from pargo_mllm.configuration import PROJECTORS
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.demo.plan import Demo, DemoOptions
from pargo_mllm.demo.side_by_side import beside, cores, one_thread
from pargo_mllm.demo.words import NAMES, limits, shows, table
from pargo_mllm.errors import UserError
from pargo_mllm.files import MANIFEST, default_cache, write_whole
from pargo_mllm.loading import chosen_device, open_model
from pargo_mllm.miniature.parts import read_report
from pargo_mllm.training.feature_store import EncodedCorpus
from pargo_mllm.training.run import LOG

# points of a curve
LOGS = 20
COMPARABLE = tuple(name for name in PROJECTORS if name != "pargo")


class DemoError(UserError):
    """The demonstration cannot run as asked; the message says why and what to do."""


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
        publish(demo)
        results["attention"] = draw(demo)
    results["seconds"]["this run"] = time.perf_counter() - start
    write(results, options.out)
    tqdm.write(table(results))
    tqdm.write(f"Report: {options.out / 'report.html'}")
    return results


def prepare(options: DemoOptions) -> Demo:
    """Check what was asked for, before anything is computed."""
    for module, package in (("matplotlib", "matplotlib"), ("skimage", "scikit-image")):
        if importlib.util.find_spec(module) is None:
            raise DemoError(f"pargo demo needs {package}, which is not installed: pip install 'pargo[demo]'")
    demo = Demo(options, chosen_device(options.device), options.cache or default_cache())
    # an encoder learns nothing from photographs that nobody labelled: said now, not after the language model
    demo.parts.lessons.check()
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
            demo.parts.language_model()
    encode_all(demo)
    if several and compare:
        with beside(partial(judge_all, demo.beside(), compare), tqdm.write):
            judge_all(demo, ("pargo",))
    judge_all(demo, demo.projectors)


def encode_all(demo: Demo) -> None:
    """Stage 0a and the features of all pictures."""
    _quiet()
    demo.parts.encoder()
    begin = time.perf_counter()
    for split in demo.corpora:
        demo.encoded(split)
    if demo.took("features") is None:
        demo.took("features", time.perf_counter() - begin)


def judge_all(demo: Demo, projectors: tuple[str, ...]) -> None:
    """Stage 1, stage 2 and the benchmark for every projector."""
    _quiet()
    for projector in projectors:
        demo.train(projector)
        demo.scores(projector)


def collect(demo: Demo) -> dict[str, Any]:
    """What was found, as ``results.json`` holds it. Shares lie in 0...1."""
    options, parts = demo.options, demo.parts
    seconds: dict[str, float | None] = {
        "stage 0b, language model": read_report(parts.language_model())["seconds"],
        "stage 0a, encoder": read_report(parts.encoder())["seconds"],
        "features": demo.took("features"),
    }
    projectors = []
    for projector in demo.projectors:
        name, scores = NAMES.get(projector, projector), demo.scores(projector)
        for stage in (1, 2):
            seconds[f"stage {stage}, {name}"] = demo.took(f"{projector}-stage{stage}")
        seconds[f"benchmark, {name}"] = scores["seconds"]
        losses = {f"stage{stage}": _shortened(demo.folder(projector, stage) / LOG) for stage in (1, 2)}
        stages = {stage: scores[stage] for stage in ("before", "stage1", "stage2")}
        projectors.append({"name": name, "tokens": scores["tokens"], **stages, "loss": losses})
    encoded = {split: demo.encoded(split) for split in demo.corpora}
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
        "seconds": {name: taken for name, taken in seconds.items() if taken is not None},
        "device": _describe(demo.device),
        "versions": _versions(),
        "attention": [],
    }
    return {**results, "shows": shows(results), "limits": limits(results, options.data is not None)}


def publish(demo: Demo) -> None:
    """Copy the trained models to where the user finds them: folders that from_pretrained loads, LoRA alone in ``adapter``."""
    for projector in demo.projectors:
        for stage in (1, 2):
            target = demo.published(projector, stage)
            aside = target.with_name(f".{target.name}.partial")
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(demo.folder(projector, stage), aside, ignore=shutil.ignore_patterns("README.md", MANIFEST))
            adapter = aside / "adapter" / "adapter_config.json"
            if adapter.is_file():
                # the copy of the model that LoRA was trained on, not the one that is kept
                base = str(demo.published(projector, 1).resolve())
                adapter.write_text(json.dumps({**json.loads(adapter.read_text()), "base_model_name_or_path": base}, indent=2))
            shutil.rmtree(target, ignore_errors=True)
            os.replace(aside, target)


def draw(demo: Demo) -> list[str]:
    """Pictures of what ParGo's tokens looked at: a held-out scene and a photograph, or two held-out photographs."""
    from pargo_mllm.data.scenes.photographs import photograph
    from pargo_mllm.pictures.attention import draw_token_attention

    held_out, unreadable = demo.corpora["test"], demo.encoded("test").unreadable
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
