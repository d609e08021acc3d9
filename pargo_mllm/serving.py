"""Model folders that engines serve through their Transformers backend (vLLM, SGLang).

These engines find a model's classes through ``auto_map`` in its configuration. The file it points to here only imports
this package, which must be installed beside the engine: ``vllm serve DIR --trust-remote-code``.
"""

from __future__ import annotations

import json
from pathlib import Path

from pargo_mllm.files import write_whole
from pargo_mllm.loading import check_model_folder

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
        ModelFolderError: if the folder holds no ParGo model with its processor.
    """
    files = {"config.json": _MODEL_MAP, "processor_config.json": _PROCESSOR_MAP}
    check_model_folder(folder)
    contents = {name: json.loads((folder / name).read_text()) for name in files}
    write_whole(folder / f"{MODULE}.py", _SOURCE)
    for name, classes in files.items():
        contents[name]["auto_map"] = {auto: f"{MODULE}.{cls}" for auto, cls in classes.items()}
        write_whole(folder / name, json.dumps(contents[name], indent=2) + "\n")
