"""What a recipe's key ``data`` says: one part, several, or a file of parts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pargo_mllm.data.scenes.corpus import Scenes
from pargo_mllm.data.sources.opening import open_regular
from pargo_mllm.model_files import told
from pargo_mllm.training.recipe_values import RecipeError, plain_yaml, typed

# bytes of a file of parts
MAX_FILE = 2**17


@dataclass(frozen=True)
class DataPart:
    """One part of the training data: what it is, how often it is drawn from, relative to the others, and where a LLaVA list has
    its pictures, if not where the recipe says.
    """

    source: Path | Scenes
    weight: float | None = None
    image_root: Path | None = None

    def __str__(self) -> str:
        return str(self.source)


def data_parts(value: Any) -> tuple[DataPart, ...]:
    """A path, a list of paths and of mappings with a path and a weight, or a file of such a list.

    A file, ``.yaml`` or ``.yml``, stands alone. Relative paths in it lead from the folder that it lies in.

    Raises:
        RecipeError: for anything else.
    """
    if _is_file_of_parts(value):
        return _read(typed("data path", value, Path))
    return _parts(value)


def _is_file_of_parts(path: Any) -> bool:
    return isinstance(path, (str, Path)) and str(path).lower().endswith((".yaml", ".yml"))


def _read(file: Path) -> tuple[DataPart, ...]:
    if not file.is_file():
        raise RecipeError(f"data: {file} is no file; it would hold the parts of a mixture.")
    with told(f"data: {file} cannot be read as YAML", RecipeError), open_regular(file) as opened:
        content = opened.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise ValueError(f"it is larger than {MAX_FILE:,} bytes")
        value = plain_yaml(content.decode("utf-8-sig"))
    if not isinstance(value, list):
        raise RecipeError(f"{file} must hold a list of parts, such as - {{path: vqav2, weight: 0.103}}, one a line.")
    try:
        parts = _parts(value)
    except RecipeError as error:
        raise RecipeError(f"{file}: {error}") from error
    return tuple(_from(file.parent, part) for part in parts)


def _from(folder: Path, part: DataPart) -> DataPart:
    """A part whose paths lead from a folder."""
    source = part.source if isinstance(part.source, Scenes) else folder / part.source
    return DataPart(source, part.weight, None if part.image_root is None else folder / part.image_root)


def _parts(value: Any) -> tuple[DataPart, ...]:
    parts = []
    for given in value if isinstance(value, list) else [value]:
        one = given if isinstance(given, dict) else {"path": given}
        path = one.get("path")
        if path is None or isinstance(path, (list, dict)) or not str(path).strip():
            shown = "an empty value" if given is None or given == "" else repr(given)
            raise RecipeError(
                f"data: {shown} must be a path, scenes:key=number,…, or a list of {{path: …, weight: …}} and paths."
            )
        if _is_file_of_parts(path):
            raise RecipeError(f"data: {path} holds parts of its own and stands alone: data: {path}")
        options = {key: value for key, value in one.items() if key not in ("path", "weight", "image_root")}
        weight = None if one.get("weight") is None else typed("data weight", one["weight"], float)
        if weight is not None and not 0 < weight < math.inf:
            raise RecipeError(f"data: weight={weight} of {one['path']} must be positive.")
        image_root = typed("data image_root", one.get("image_root"), Path | None)
        parts.append(DataPart(_source(one["path"], options), weight, image_root))
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
            raise RecipeError(
                f"data: {next(iter(options))!r} is no key of {path}; a path has a weight and, if it is a LLaVA file, an "
                "image_root; scenes have options."
            )
        return typed("data path", path, Path)
    if options and ":" in path:
        raise RecipeError(f"data: {path} has options in its name and as keys ({', '.join(options)}); give them once.")
    return Scenes.of(options) if options else scenes
