"""``pargo demo``: encoder, ParGo and language model trained through both stages and judged on held-out pictures."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import time
import warnings
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm

import pargo_kernels
from pargo_mllm.demo.side_by_side import beside, cores, one_thread
from pargo_mllm.demo.words import NAMES, limits, shows, table
from pargo_mllm.files import default_cache
from pargo_mllm.miniature.parts import Phases, load_trained, read_report
from pargo_mllm.miniature.sizes import SCALES, STAGE0_SEED

COMPARABLE = tuple(name for name in NAMES if name != "pargo")


class DemoError(ValueError):
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
    phases = prepare(options)
    _quiet()
    with one_thread():
        train(phases, options.compare)
        results = collect(phases, options)
        _publish(phases, ("pargo", *options.compare), options.out)
        results["attention"] = draw(phases, options)
    results["seconds"]["this run"] = time.perf_counter() - start
    write(results, options.out)
    tqdm.write(table(results))
    tqdm.write(f"Report: {options.out / 'report.html'}")
    return results


def prepare(options: DemoOptions) -> Phases:
    """Check what was asked for, before anything is computed."""
    for module, package in (("matplotlib", "matplotlib"), ("skimage", "scikit-image")):
        if importlib.util.find_spec(module) is None:
            raise DemoError(f"pargo demo needs {package}, which is not installed: pip install 'pargo[demo]'")
    device = _device(options.device)
    cache = options.cache or default_cache()
    size = SCALES[options.scale].on(device, options.seed)
    source = size.source(options.data, options.seed)
    phases = Phases(size, source, size.source(options.data, STAGE0_SEED), cache, device)
    if options.data is not None:
        # an encoder learns nothing from photographs that nobody labelled: said now, not after the language model
        phases.lessons.patch_lessons(size.patches)
    for argument, folder in (("--out", options.out), ("--cache", cache)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DemoError(f"{argument} {folder} cannot be made: {error.strerror}.") from error
        if not os.access(folder, os.W_OK):
            raise DemoError(f"{argument} {folder} cannot be written to; choose another folder.")
    return phases


def train(phases: Phases, compare: tuple[str, ...]) -> None:
    """All stages, for ParGo and for the projectors to compare it with. On two cores and no GPU, side by side."""
    if phases.device == "cpu" and cores() > 1:
        with beside(partial(encode_all, phases.beside()), tqdm.write):
            phases.language_model()
    phases.language_model()
    encode_all(phases)
    if compare and phases.device == "cpu" and cores() > 1:
        with beside(partial(evaluate_all, phases.beside(), compare), tqdm.write):
            phases.evaluation("pargo")
    evaluate_all(phases, ("pargo", *compare))


def encode_all(phases: Phases) -> None:
    """Stage 0a and the features of all pictures."""
    _quiet()
    phases.features()


def evaluate_all(phases: Phases, projectors: tuple[str, ...]) -> None:
    """Stage 1, stage 2 and evaluation of every projector."""
    _quiet()
    for projector in projectors:
        phases.evaluation(projector)


def collect(phases: Phases, options: DemoOptions) -> dict[str, Any]:
    """What the phases found, as ``results.json`` holds it. Shares lie in 0...1."""
    folders = {
        "stage 0b, language model": phases.language_model(),
        "stage 0a, encoder": phases.encoder(),
        "features": phases.features(),
    }
    projectors = []
    for projector in ("pargo", *options.compare):
        name = NAMES[projector]
        found = {
            f"stage 1, {name}": phases.stage1(projector),
            f"stage 2, {name}": phases.stage2(projector),
            f"evaluation, {name}": phases.evaluation(projector),
        }
        folders |= found
        losses = [read_report(folder)["loss"] for folder in list(found.values())[:2]]
        scores = phases.held_out_scores(projector)
        stages = {stage: scores[stage] for stage in ("before", "stage1", "stage2")}
        loss = dict(zip(("stage1", "stage2"), losses, strict=True))
        projectors.append({"name": name, "tokens": scores["tokens"], **stages, "loss": loss})
    scores, readable = phases.held_out_scores("pargo"), read_report(phases.features())
    skipped = readable["skipped"]
    for picture, problem in skipped.items():
        tqdm.write(f"skipped {picture}: {problem}")
    results: dict[str, Any] = {
        "data": {
            "name": "generated scenes" if options.data is None else f"photographs of {options.data.resolve().name}",
            "train": len(readable["readable"]["train"]),
            "test": len(readable["readable"]["test"]),
            "questions": scores["questions"],
            "skipped": len(skipped),
        },
        "seed": options.seed,
        "scale": options.scale,
        "projectors": projectors,
        "baselines": scores["baselines"],
        "seconds": {name: read_report(folder)["seconds"] for name, folder in folders.items()},
        "device": _describe(phases.device),
        "versions": _versions(),
        "attention": [],
    }
    return {**results, "shows": shows(results), "limits": limits(results, options.data is not None)}


def draw(phases: Phases, options: DemoOptions) -> list[str]:
    """Pictures of what ParGo's tokens looked at: a held-out scene and a photograph, or two held-out photographs."""
    from pargo_mllm.data.scenes.photographs import photograph
    from pargo_mllm.pictures.attention import draw_token_attention

    held_out = phases.held_out()
    if options.data is None:
        # the first one with details in it: some scenes are a photograph and nothing else
        scene = next((sample for sample in held_out if len(sample.questions) > 1), held_out[0])
        wanted = {
            "attention_scene.png": (scene.load(), f"A held-out picture: {scene.name}"),
            "attention_photograph.png": (photograph("astronaut"), "A whole photograph; the model was trained on scenes"),
        }
    else:
        wanted = {
            f"attention_photograph{'' if index == 0 else f'_{index + 1}'}.png": (sample.load(), f"Held out: {sample.name}")
            for index, sample in enumerate(held_out[:2])
        }
    model, processor = load_trained(phases.stage2("pargo") / "model")
    for name, (picture, title) in tqdm(wanted.items(), desc="pictures of attention", unit="picture", dynamic_ncols=True):
        draw_token_attention(model, processor, picture, options.out / name, title=title, device=phases.device)
    return list(wanted)


def write(results: dict[str, Any], out: Path) -> None:
    """``results.json`` and the report."""
    from pargo_mllm.demo.report import write_report

    aside = out / ".results.json.partial"
    aside.write_text(json.dumps(results, indent=2))
    os.replace(aside, out / "results.json")
    write_report(out, results)


def _quiet() -> None:
    """The bars and lines on the screen are the demonstration's own."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def _publish(phases: Phases, projectors: tuple[str, ...], out: Path) -> None:
    """Copy the trained models: folders that from_pretrained loads, LoRA alone below ``stage2/adapter``."""
    for projector in projectors:
        for stage, folder in (("stage1", phases.stage1(projector)), ("stage2", phases.stage2(projector))):
            target = out / "models" / projector / stage
            aside = target.with_name(f".{stage}.partial")
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(folder / "model", aside, ignore=shutil.ignore_patterns("trainer", "README.md"))
            adapter = aside / "adapter" / "adapter_config.json"
            if adapter.is_file():
                # the copy of the model that LoRA was trained on, not the one in the cache
                base = str((out / "models" / projector / "stage1").resolve())
                adapter.write_text(json.dumps({**json.loads(adapter.read_text()), "base_model_name_or_path": base}, indent=2))
            shutil.rmtree(target, ignore_errors=True)
            os.replace(aside, target)


def _device(asked: str) -> str:
    if asked == "cuda" and not torch.cuda.is_available():
        raise DemoError("--device cuda: torch finds no GPU here; use --device cpu, or install a torch built for your GPU.")
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return asked


def _describe(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu, {cores()} cores"


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "peft", "accelerate")
    return {
        "pargo": pargo_kernels.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
