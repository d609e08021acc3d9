"""Recipes: what ``pargo train`` runs, as short YAML files, checked before anything is loaded."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pargo_cli.keys import PACKAGED, RecipeKeys, TrainingKeys
from pargo_cli.keys import recipe_names as names
from pargo_mllm.alignment.loss import FORMS
from pargo_mllm.alignment.patch_labels import TARGETS, TOKENS
from pargo_mllm.configuration import PROJECTORS, ParGoProjectorConfig
from pargo_mllm.data.feeding.conversations import TEMPLATES
from pargo_mllm.data.scenes.corpus import Scenes
from pargo_mllm.language.lora import LoraSettings
from pargo_mllm.loading import computes_bf16
from pargo_mllm.model_files import told
from pargo_mllm.training.data_parts import DataPart, data_parts
from pargo_mllm.training.recipe_values import RecipeError, plain_yaml, typed
from pargo_mllm.training.trainer.settings import StageSettings

# what may change while a run goes on
NOT_DECISIVE = ("output", "save_steps", "workers", "eval_steps", "eval_examples", "report_to", "check_data")
# keys that take each other's place: how long, how the rate rises, what training starts from
ALTERNATIVES = (("steps", "epochs"), ("warmup", "warmup_steps"), ("model", "miniature", "architecture"))
# what the keys of the patch loss begin with
PATCH_KEYS = "patch_"
# how the language model trains in stage 2
TUNING = ("lora", "full")
ATTENTION = ("sdpa", "eager", "flash_attention_2")
# of a projector's arguments, those that follow from the encoder and the language model
FILLED_IN = ("vision_hidden_size", "output_size", "feature_grid")
PROJECTOR_ATTENTION = ("pargo", "sdpa", "eager")


@dataclass(frozen=True, kw_only=True)
class Recipe(RecipeKeys):
    """One stage of training; :mod:`pargo_cli.keys` says what each key means.

    Raises:
        RecipeError: for values that cannot train.
    """

    # the keys know no data; a mapping alone is a list of one
    data: tuple[DataPart, ...] | None = None

    def __post_init__(self):
        if self.stage not in (1, 2):
            raise RecipeError(f"stage={self.stage} must be 1 or 2.")
        if (self.steps is None) == (self.epochs is None):
            raise RecipeError(f"steps={self.steps}, epochs={self.epochs}: exactly one of the two must be given.")
        choices = {"attention": ATTENTION, "projector_attention": PROJECTOR_ATTENTION, "template": TEMPLATES, "tuning": TUNING}
        choices |= {"patch_loss": FORMS, "patch_tokens": TOKENS, "patch_targets": TARGETS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise RecipeError(f"{name}={getattr(self, name)!r} is unknown; it must be one of {', '.join(known)}.")
        if not 0 <= self.held_out < 1:
            raise RecipeError(f"held_out={self.held_out} must lie in [0, 1): it is a share of the data.")
        self._check_patches()
        if self.stage == 1 and self.tuning != "lora":
            raise RecipeError(f"tuning={self.tuning!r} is for stage 2; in stage 1 the language model is frozen.")
        if self.stage == 2 and self.miniature:
            raise RecipeError("miniature is for stage 1; stage 2 starts from --model, the folder of stage 1.")
        if self.projector is not None:
            if self.stage == 2:
                raise RecipeError(
                    "projector is for stage 1; stage 2 goes on with the projector of --model, the folder of stage 1."
                )
            _check_projector(self.projector)
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

    def _check_patches(self) -> None:
        if not 0 <= self.patch_weight < math.inf:
            raise RecipeError(f"patch_weight={self.patch_weight} must be a number of at least 0; 0 leaves the patch loss out.")
        if not 0 <= self.patch_ramp <= 1:
            raise RecipeError(f"patch_ramp={self.patch_ramp} must lie in [0, 1]: it is a share of the steps.")
        if not 0 < self.patch_threshold <= 1:
            raise RecipeError(
                f"patch_threshold={self.patch_threshold} must lie in (0, 1]: it is a share of what a token reads."
            )
        if self.stage == 2 and self.patch_weight:
            raise RecipeError(
                f"patch_weight={self.patch_weight} is for stage 1; in stage 2 the words themselves may move: leave it out."
            )

    def lora(self) -> LoraSettings:
        """LoRA of stage 2, where ``tuning`` is "lora"."""
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
            "data": [[_place(part.source), part.weight, *_resolved(part.image_root)] for part in self.data or ()],
            "image_root": next(iter(_resolved(self.image_root)), None),
        }
        if self.patch_labels is not None:
            paths["patch_labels"] = str(self.patch_labels.resolve())
        decisive = {**asdict(self), **paths}
        for name in NOT_DECISIVE:
            del decisive[name]
        if not self.patch_weight:
            # a run without the patch loss is what it was before there was one
            decisive = {name: value for name, value in decisive.items() if not name.startswith(PATCH_KEYS)}
        return decisive


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
        own = {"data": data_parts, "projector": _projector, "lora_target_modules": _targets}.get(key)
        checked[key] = own(value) if own else typed(key, value, kinds[key])
    if "stage" not in checked:
        raise RecipeError(f"{recipe} has no stage; it must be 1 or 2.")
    for key in checked if checked["stage"] == 2 else ():
        if key.startswith(PATCH_KEYS):
            raise RecipeError(f"{key}={checked[key]!r} is for stage 1; leave it out in stage 2.")
    for key in checked if checked["stage"] == 1 else ():
        if key.startswith("lora_"):
            raise RecipeError(f"{key}={checked[key]!r} is for stage 2; stage 1 trains the projector alone.")
    made = Recipe(**checked)
    for key in checked if "patch_weight" not in checked else ():
        if key.startswith(PATCH_KEYS):
            raise RecipeError(
                f"{key}={checked[key]} is of the patch loss; give its patch_weight (0 for none), or leave {key} out."
            )
    return made


def _read(file: Path, called: str) -> dict[str, Any]:
    if not file.is_file():
        raise RecipeError(f"{called} is neither a recipe ({', '.join(names())}) nor a file.")
    with told(f"{file} cannot be read as YAML", RecipeError):
        own = plain_yaml(file.read_text(encoding="utf-8"))
    if not isinstance(own, dict):
        raise RecipeError(f"{file} must hold keys and values, one a line.")
    extends = own.pop("extends", [])
    if not isinstance(extends, (str, list)):
        raise RecipeError(f"extends={extends!r} must be the name of a packaged recipe, or a list of names.")
    settings: dict[str, Any] = {}
    for part in [extends] if isinstance(extends, str) else extends:
        # packaged files alone: a part leads to no file of the user's, and to no circle
        if part not in [*names(), *(f"parts/{path.stem}" for path in PACKAGED.glob("parts/*.yaml"))]:
            raise RecipeError(f"extends: {part!r} is no packaged recipe; there are {', '.join(names())}.")
        _merge(settings, _read(PACKAGED / f"{part}.yaml", str(part)))
    _merge(settings, own)
    return settings


def _merge(settings: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """What is said later counts, and takes away what it takes the place of.

    Raises:
        RecipeError: for several at once that take each other's place.
    """
    for group in ALTERNATIVES:
        given = [key for key in group if changes.get(key) is not None]
        if len(given) > 1:
            said = ", ".join(f"{key}={changes[key]!r}" for key in given)
            raise RecipeError(f"{said}: they take each other's place; give exactly one.")
        for key in group if given else ():
            settings.pop(key, None)
    settings.update(changes)


def _resolved(path: Path | None) -> list[str]:
    return [] if path is None else [str(path.resolve())]


def _place(source: Path | Scenes) -> str:
    return str(source) if isinstance(source, Scenes) else str(source.resolve())


def parse_projector(text: str) -> dict[str, Any]:
    """A projector's arguments, as ``--projector`` takes them: a type, or arguments as YAML.

    Raises:
        RecipeError: for what is neither, or no projector.
    """
    projector = _projector(_value("projector", text)) or {}
    _check_projector(projector)
    return projector


def _check_projector(projector: dict[str, Any]) -> None:
    known = [name for name in ParGoProjectorConfig.__annotations__ if name not in FILLED_IN]
    for key in projector:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            raise RecipeError(f"projector: {key!r} is unknown" + (f"; {near[0]}?" if near else f": {', '.join(known)}."))
    try:
        ParGoProjectorConfig(**projector)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"projector: {error}") from error


def _projector(value: Any) -> dict[str, Any] | None:
    """A type, or arguments."""
    if isinstance(value, str):
        return {"projector_type": value}
    if value is not None and not isinstance(value, dict):
        raise RecipeError(f"projector={value!r} must be a type ({', '.join(PROJECTORS)}), or arguments as keys and values.")
    return value


def _targets(value: Any) -> str | tuple[str, ...] | None:
    """A regular expression, or names of layers."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise RecipeError(
            f"lora_target_modules={value!r} must be names of layers, such as [q_proj, v_proj], or a regular expression."
        )
    return tuple(value)


def _value(key: str, text: str) -> Any:
    if not text.strip():
        # YAML takes it for null; an unset variable of a shell is no choice
        raise RecipeError(f"{key}={text!r} is empty; give a value, null for none, or leave it out.")
    shown = text if len(text) <= 80 else f"{text[:80]}…"
    with told(f"{key}={shown!r} cannot be read as a value", RecipeError):
        return plain_yaml(text)
