"""Recipes: what ``pargo train`` runs, as short YAML files, checked before anything is loaded."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from pargo_mllm.configuration import PROJECTORS, ParGoProjectorConfig
from pargo_mllm.data.feeding.conversations import TEMPLATES
from pargo_mllm.data.scenes.corpus import Scenes
from pargo_mllm.errors import UserError
from pargo_mllm.language.lora import LoraSettings
from pargo_mllm.model_files import told
from pargo_mllm.training.trainer.precision import computes_bf16
from pargo_mllm.training.trainer.settings import StageSettings, TrainingKeys

# what may change while a run goes on
NOT_DECISIVE = ("output", "save_steps", "workers", "eval_steps", "eval_examples", "report_to")
PACKAGED = Path(__file__).resolve().parent.parent / "recipes"
ATTENTION = ("sdpa", "eager", "flash_attention_2")
# of a projector's arguments, those that follow from the encoder and the language model
FILLED_IN = ("vision_hidden_size", "output_size", "feature_grid")
PROJECTOR_ATTENTION = ("pargo", "sdpa", "eager")

_MOST_VALUES = 10_000


class RecipeError(UserError):
    """A recipe that cannot run; the message names the key, its value and the rule."""


@dataclass(frozen=True)
class DataPart:
    """One part of the training data: what it is, and how often it is drawn from, relative to the others."""

    source: Path | Scenes
    weight: float | None = None

    def __str__(self) -> str:
        return str(self.source)


@dataclass(frozen=True, kw_only=True)
class Recipe(TrainingKeys):
    """One stage of training.

    Args:
        stage: 1 (the projector learns from captions) or 2 (projector and LoRA learn to answer).
        data: a path, or several as ``[{path: …, weight: …}, …]``, all with a weight or none: a COCO-style folder, a LLaVA JSON
            file, webdataset shards, or generated scenes as ``scenes``, ``scenes:seed=1,train=5000,held_out=400`` or
            ``{path: scenes, seed: 1, …}`` (:mod:`pargo_mllm.data.open_corpus`).
        held_out: the share of a LLaVA file or of shards that is not trained on; of a COCO-style folder it is a fifth.
        template: "chat", or "plain" for captions without a prompt: picture, text, end token.
        model: the folder that training starts from, model and processor.
        output: the folder that training ends with.
        architecture: arguments of ParGoConfig, for a dry run without ``model``.
        miniature: "demo" or "tiny": without ``model``, start from small parts that are trained first (stage 0).
        projector: of stage 1, in place of the one that training would start with: its type, or arguments of
            :class:`ParGoProjectorConfig`. It is fresh; what is not given stays.
        views: about so many views (crops) of the photographs of a COCO-style folder are made; 0 for each once, whole.
        max_length: examples with more tokens, those of pictures included, are skipped and named.
        pack: put whole examples one behind the other into rows of at most ``max_length`` tokens; they do not see each other.
        group_by_length: examples of a batch are about equally long.
        cache_features: run the frozen encoder once a picture, before training, and keep its features on disk.
        attention: of encoder and language model.
        projector_attention: "pargo", or "sdpa" or "eager" for the dense baselines.
        eval_examples: at most so many are evaluated.
        steps, epochs: how long; one of the two.
        bf16: None for yes where the device has instructions for it.
        lora_rank, lora_alpha, lora_dropout, lora_target_modules: of stage 2; see :class:`LoraSettings`.
        seed: of the projector and the views too.

    The others are those of :class:`~pargo_mllm.training.trainer.settings.TrainingKeys`.
    """

    stage: int
    data: tuple[DataPart, ...] | None = None
    held_out: float = 0.0
    template: str = "chat"
    model: Path | None = None
    output: Path | None = None
    architecture: dict | None = None
    miniature: str | None = None
    projector: dict | None = None
    views: int = 0
    max_length: int = 1024
    pack: bool = False
    group_by_length: bool = False
    cache_features: bool = False
    attention: str = "sdpa"
    projector_attention: str = "pargo"
    eval_examples: int = 512
    steps: int | None = None
    epochs: int | None = None
    bf16: bool | None = None
    lora_rank: int = 256
    lora_alpha: int = 512
    lora_dropout: float = 0.05
    lora_target_modules: str | None = None

    def __post_init__(self):
        if self.stage not in (1, 2):
            raise RecipeError(f"stage={self.stage} must be 1 or 2.")
        if (self.steps is None) == (self.epochs is None):
            raise RecipeError(f"steps={self.steps}, epochs={self.epochs}: exactly one of the two must be given.")
        choices = {"attention": ATTENTION, "projector_attention": PROJECTOR_ATTENTION, "template": TEMPLATES}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise RecipeError(f"{name}={getattr(self, name)!r} is unknown; it must be one of {', '.join(known)}.")
        if not 0 <= self.held_out < 1:
            raise RecipeError(f"held_out={self.held_out} must lie in [0, 1): it is a share of the data.")
        if self.stage == 2 and self.miniature:
            raise RecipeError("miniature is for stage 1; stage 2 starts from --model, the folder of stage 1.")
        if self.projector is not None:
            self._check_projector(self.projector)
        least_values = {"epochs": 1, "max_length": 1, "views": 0, "seed": 0, "workers": 0, "eval_steps": 1, "eval_examples": 1}
        for name, least in least_values.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"{name}={value} must be at least {least}.")
        try:
            self.lora()
        except ValueError as error:
            raise RecipeError(f"lora_{error}") from error
        self.settings(None, "cpu")

    def _check_projector(self, projector: dict[str, Any]) -> None:
        if self.stage == 2:
            raise RecipeError("projector is for stage 1; stage 2 goes on with the projector of --model, the folder of stage 1.")
        known = [name for name in ParGoProjectorConfig.__annotations__ if name not in FILLED_IN]
        for key in projector:
            if key not in known:
                near = get_close_matches(str(key), known, n=1)
                raise RecipeError(f"projector: {key!r} is unknown" + (f"; {near[0]}?" if near else f": {', '.join(known)}."))
        try:
            ParGoProjectorConfig(**projector)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"projector: {error}") from error

    def lora(self) -> LoraSettings:
        """LoRA of stage 2."""
        return LoraSettings(self.lora_rank, self.lora_alpha, self.lora_dropout, self.lora_target_modules)

    def settings(self, pictures: int | None, device: str, processes: int = 1) -> StageSettings:
        """What the stage trains with on so many pictures; None where their number is not known.

        Raises:
            RecipeError: for values that cannot train.
        """
        shared = {field.name: getattr(self, field.name) for field in fields(TrainingKeys)}
        steps = self.steps
        if self.epochs is not None:
            # an unknown number refuses nothing
            each = 10**9 if pictures is None else -(-pictures // self.batch_size)
            steps = self.epochs * each
        bf16 = computes_bf16(device) if self.bf16 is None else self.bf16
        try:
            own = {"steps": steps, "bf16": bf16, "use_cpu": device == "cpu", "processes": processes, "log_steps": 1}
            return StageSettings(**{**shared, **own})
        except ValueError as error:
            raise RecipeError(str(error)) from error

    def identity(self) -> dict[str, Any]:
        """What decides the weights that training ends with, as JSON."""
        paths = {
            "model": None if self.model is None else str(self.model.resolve()),
            "data": [[_place(part.source), part.weight] for part in self.data or ()],
        }
        decisive = {**asdict(self), **paths}
        for name in NOT_DECISIVE:
            del decisive[name]
        return decisive


def names() -> list[str]:
    """The packaged recipes."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def load_recipe(recipe: str, changes: Mapping[str, str] | None = None) -> Recipe:
    """A packaged recipe, or one of the user's.

    Args:
        recipe: the name of a packaged recipe, or a YAML file.
        changes: values for keys, as text.

    Raises:
        RecipeError: for an unknown recipe or key, or a value that its key does not take.
    """
    settings = _read(PACKAGED / f"{recipe}.yaml" if recipe in names() else Path(recipe), recipe)
    _merge(settings, {key: _value(key, text) for key, text in (changes or {}).items()})
    kinds = typing.get_type_hints(Recipe)
    checked: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in kinds:
            near = get_close_matches(str(key), kinds, n=1)
            raise RecipeError(f"{key} is no key of a recipe" + (f"; {near[0]}?" if near else f": {', '.join(kinds)}."))
        own = {"data": _data, "projector": _projector}.get(key)
        checked[key] = own(value) if own else _typed(key, value, kinds[key])
    if "stage" not in checked:
        raise RecipeError(f"{recipe} has no stage; it must be 1 or 2.")
    return Recipe(**checked)


def _read(file: Path, called: str) -> dict[str, Any]:
    if not file.is_file():
        raise RecipeError(f"{called} is neither a recipe ({', '.join(names())}) nor a file.")
    with told(f"{file} cannot be read as YAML", RecipeError):
        own = _plain(file.read_text(encoding="utf-8"))
    if not isinstance(own, dict):
        raise RecipeError(f"{file} must hold keys and values, one a line.")
    extends = own.pop("extends", [])
    if not isinstance(extends, (str, list)):
        raise RecipeError(f"extends: {extends!r} must be the name of a packaged recipe, or a list of names.")
    settings: dict[str, Any] = {}
    for part in [extends] if isinstance(extends, str) else list(extends):
        # packaged files alone: a part leads to no file of the user's, and to no circle
        if part not in [*names(), *(f"parts/{path.stem}" for path in PACKAGED.glob("parts/*.yaml"))]:
            raise RecipeError(f"extends: {part!r} is no packaged recipe; there are {', '.join(names())}.")
        _merge(settings, _read(PACKAGED / f"{part}.yaml", str(part)))
    _merge(settings, own)
    return settings


def _merge(settings: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """What says how long replaces the other way to say it, and so does the warm-up."""
    for one, other in (("steps", "epochs"), ("warmup", "warmup_steps")):
        for new, old in ((one, other), (other, one)):
            if new in changes and old not in changes:
                settings.pop(old, None)
    settings.update(changes)


def _data(value: Any) -> tuple[DataPart, ...] | None:
    """A path, or a list of mappings with a path and a weight."""
    if value is None:
        return None
    parts = []
    alone = value if isinstance(value, dict) else {"path": value}
    for one in value if isinstance(value, list) else [alone]:
        if not isinstance(one, dict) or one.get("path") is None:
            raise RecipeError(f"data={one!r} must be a path, scenes:key=number,…, or a list of {{path: …, weight: …}}.")
        options = {key: value for key, value in one.items() if key not in ("path", "weight")}
        weight = None if one.get("weight") is None else _typed("data weight", one["weight"], float)
        if weight is not None and not 0 < weight < math.inf:
            raise RecipeError(f"data: weight={weight} of {one['path']} must be positive.")
        parts.append(DataPart(_source(one["path"], options), weight))
    if not parts:
        raise RecipeError("data=[] must name at least one path.")
    if len({part.weight is None for part in parts}) > 1:
        raise RecipeError("data: some parts have a weight and some have none; give all of them one, or none.")
    return tuple(parts)


def _source(path: Any, options: dict[str, Any]) -> Path | Scenes:
    """A path, or scenes, which alone have options."""
    scenes = Scenes.parse(path) if isinstance(path, str) else None
    if scenes is None:
        if options:
            raise RecipeError(f"data: {next(iter(options))!r} is no key of {path}; a path has a weight, scenes have options.")
        return _typed("data path", path, Path)
    if options and ":" in path:
        raise RecipeError(f"data: {path} has options in its name and as keys ({', '.join(options)}); give them once.")
    return Scenes.of(options) if options else scenes


def _place(source: Path | Scenes) -> str:
    return str(source) if isinstance(source, Scenes) else str(source.resolve())


def _projector(value: Any) -> dict[str, Any] | None:
    """A type, or arguments."""
    if isinstance(value, str):
        return {"projector_type": value}
    if value is not None and not isinstance(value, dict):
        raise RecipeError(f"projector={value!r} must be a type ({', '.join(PROJECTORS)}), or arguments as keys and values.")
    return value


def _value(key: str, text: str) -> Any:
    shown = text if len(text) <= 80 else f"{text[:80]}…"
    with told(f"{key}={shown!r} cannot be read as a value", RecipeError):
        return _plain(text)


def _plain(text: str) -> Any:
    """YAML as Python's values. Aliases let a few lines stand for billions of them, or for themselves: these are refused."""
    loaded = yaml.safe_load(text)
    count, waiting = 0, [loaded]
    while waiting:
        value = waiting.pop()
        count += 1
        if count > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES:,} values, aliases counted as often as they are used")
        waiting += [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, (list, set)) else []
    return loaded


def _typed(key: str, value: Any, kind: Any) -> Any:
    """``value`` as the type of its key."""
    optional = isinstance(kind, types.UnionType) and type(None) in kind.__args__
    if value is None and optional:
        return None
    if optional:
        kind = kind.__args__[0]
    if kind in (Path, str) and isinstance(value, (str, int, float, Path)) and not isinstance(value, bool):
        return Path(str(value)).expanduser() if kind is Path else str(value)
    if kind is float and not isinstance(value, bool):
        try:
            # YAML takes 1e-4 for a word
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        Path: "a path",
        str: "text",
        dict: "keys and values",
    }
    raise RecipeError(f"{key}={value!r} must be {words[kind]}.")
