"""Model folders that engines serve through their Transformers backend (vLLM, SGLang).

These engines find a model's classes through ``auto_map`` in its configuration. The file it points to here only imports
this package, which must be installed beside the engine: ``vllm serve DIR --trust-remote-code``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

MODULE = "pargo_classes"
_SOURCE = '''"""Where to find the classes of this model: the pargo package must be installed."""

from pargo_mllm import ParGoConfig, ParGoForConditionalGeneration, ParGoModel, ParGoProcessor
'''
_MODEL_MAP = {
    "AutoConfig": "ParGoConfig",
    "AutoModel": "ParGoModel",
    "AutoModelForImageTextToText": "ParGoForConditionalGeneration",
}
_PROCESSOR_MAP = {"AutoProcessor": "ParGoProcessor"}


def prepare_for_serving(folder: Path) -> None:
    """Add to a folder of model and processor what engines need to serve it. Weights are not touched.

    Raises:
        ValueError: if the folder holds no ParGo model with its processor.
    """
    files = {"config.json": _MODEL_MAP, "processor_config.json": _PROCESSOR_MAP}
    contents = {}
    for name in files:
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}; give a folder that holds a ParGo model and its processor.")
        contents[name] = json.loads((folder / name).read_text())
    kind = contents["config.json"].get("model_type")
    if kind != "pargo":
        raise ValueError(f"{folder} holds a model of type {kind!r}, not of type 'pargo'.")
    _write(folder / f"{MODULE}.py", _SOURCE)
    for name, classes in files.items():
        contents[name]["auto_map"] = {auto: f"{MODULE}.{cls}" for auto, cls in classes.items()}
        _write(folder / name, json.dumps(contents[name], indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(text)
    os.replace(aside, path)
