"""The files of a model folder, each looked at on its own before anything is built from them: they may come from strangers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pargo_mllm.errors import UserError
from pargo_mllm.files import file_digest

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# of a JSON file; a vocabulary of a million tokens takes a tenth of it
MOST_BYTES = 2**28
# of those that transformers looks for in a folder
_JSON = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "chat_template.json",
    INDEX,
)
_ANSWERS_DEPEND_ON = (".safetensors", ".json", ".jinja", ".model", ".txt")
# a configuration may count so many, even where the weights have fewer
_FEW_LAYERS, _FEW_OF_ANYTHING = 2**10, 2**16


class ModelFolderError(UserError):
    """A folder that holds no model with its processor, or a device that is not there."""


@contextmanager
def told(what: Path | str, error_class: type[UserError] = ModelFolderError) -> Iterator[None]:
    """Around other people's code that reads what strangers wrote: whatever it raises says what cannot be used.

    The kinds of errors that a file can cause there are without number; our own code does not belong inside.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        # what tokenizers raises when its own code fails is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise error_class(f"{what}: {reason(error)}.") from error


def reason(error: BaseException) -> str:
    """An error in one line, with its kind where its text alone says little."""
    text = " ".join(str(error).split()).rstrip(".")
    text = text if len(text) <= 400 else f"{text[:400]} …"
    return text if isinstance(error, (OSError, ValueError)) and text else f"{type(error).__name__} {text}".rstrip()


def check_files(folder: Path) -> None:
    """Find out whether every entry of a folder is a file or a folder: to open a pipe would wait for ever.

    Raises:
        ModelFolderError: for anything else, JSON that cannot be read, and an adapter, which transformers would load in place
            of the model.
    """
    with told(folder):
        entries = sorted(folder.iterdir())
        entries += [
            path for entry in entries if entry.is_dir() and entry.name.endswith("templates") for path in entry.iterdir()
        ]
    for path in entries:
        # hidden ones are editors', and read by nobody
        if not (path.is_file() or path.is_dir() or path.name.startswith(".")):
            raise ModelFolderError(f"{path} is no regular file; take it away, or put the file itself there.")
        if path.name in _JSON:
            read_object(path)
    if (folder / "adapter_config.json").is_file():
        raise ModelFolderError(
            f"{folder} holds an adapter beside a model, adapter_config.json; give the adapter a folder of its own, or fold it "
            "in with pargo merge."
        )


def folder_digest(folder: Path) -> str:
    """SHA-256 of all that a model's answers depend on: weights, configurations, tokenizer, template and image processor."""
    files = sorted(path for path in folder.iterdir() if path.suffix in _ANSWERS_DEPEND_ON and path.is_file())
    listing = "".join(f"{file_digest(path)} {path.name}\n" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def read_object(file: Path, error_class: type[UserError] = ModelFolderError) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        error_class: if it cannot be read, is larger than :data:`MOST_BYTES`, no JSON, nested too deeply, or no object.
    """
    try:
        if not file.is_file():
            raise error_class(f"{file} is no regular file.")
        if file.stat().st_size > MOST_BYTES:
            raise error_class(f"{file} has {file.stat().st_size:,} bytes; more than {MOST_BYTES:,} are not read.")
        content = json.loads(file.read_text(encoding="utf-8"))
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise error_class(f"{file} is no JSON that can be read: {reason(error)}.") from error
    if not isinstance(content, dict):
        raise error_class(f"{file} holds a {type(content).__name__}; it must hold keys and values.")
    return content


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a folder's weights, from the headers of its safetensors files.

    Raises:
        ModelFolderError: if there are none, a file is missing or damaged, or the index names another one's tensors.
    """
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        if not (folder / WEIGHTS).is_file():
            raise ModelFolderError(f"{folder} has no weights ({WEIGHTS}, or {INDEX} and the files that it names).")
        return shapes(folder / WEIGHTS)
    index = read_object(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(name, str) for name in index.values()):
        raise ModelFolderError(f"{folder / INDEX}: weight_map must name the file of every tensor.")
    found: dict[str, tuple[int, ...]] = {}
    for name in sorted(set(index.values())):
        if Path(name).name != name:
            raise ModelFolderError(f"{folder / INDEX} names {name!r}; weights must lie in the folder itself.")
        if not (folder / name).is_file():
            raise ModelFolderError(f"{folder} has no {name}, which {INDEX} names; the weights are not complete.")
        own = shapes(folder / name)
        lost = sorted(tensor for tensor, file in index.items() if file == name and tensor not in own)
        if lost:
            raise ModelFolderError(f"{folder / name} lacks {listed(lost)}, which {INDEX} says is in it.")
        found.update(own)
    return found


def shapes(file: Path, error_class: type[UserError] = ModelFolderError) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a safetensors file, from its header.

    Raises:
        error_class: if it is damaged or cut off.
    """
    try:
        with safe_open(file, "pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, ValueError, SafetensorError) as error:
        raise error_class(f"{file} is no whole safetensors file: {reason(error)}; it is damaged or cut off.") from error


def check_counts(config: dict[str, Any], layers: int = 0, of_anything: int = 0, where: str = "") -> None:
    """Refuse numbers in a configuration of which a model would be built for hours before its weights are compared.

    Args:
        layers: a stack may have so many; at least a thousand.
        of_anything: the largest number of rows or columns in the weights.

    Raises:
        ValueError: it names key, value and limit.
    """
    for key, value in config.items():
        if isinstance(value, dict):
            check_counts(value, layers, of_anything, f"{where}{key}.")
        counts = isinstance(key, str) and ("num_" in key or key.endswith("_layers"))
        if not counts or not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        most = max(layers, _FEW_LAYERS) if key.endswith("layers") else max(of_anything, _FEW_OF_ANYTHING)
        if not value <= most:
            raise ValueError(f"{where}{key}={value} is more than {most:,}, which is all that there can be")


def wrong_tensors(report: dict[str, Any]) -> list[str]:
    """What ``from_pretrained``'s load report says of tensors that random ones would stand for, as ends of a sentence."""
    wrong = [f"lack {listed(sorted(report['missing_keys']))}"] if report["missing_keys"] else []
    if report["mismatched_keys"]:
        shapes = [f"{name} of shape {list(own)} in place of {list(asked)}" for name, own, asked in report["mismatched_keys"]]
        wrong.append(f"have {listed(sorted(shapes))}")
    return wrong


def listed(names: list[str], most: int = 6) -> str:
    """Names in a sentence, no more than ``most`` of them."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
