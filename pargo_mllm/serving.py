"""Model folders that engines serve through their Transformers backend (vLLM, SGLang).

These engines find a model's classes through ``auto_map`` in its configuration, which every folder that this package saves
has. This package must be installed beside the engine: ``vllm serve DIR --trust-remote-code``.
"""

from __future__ import annotations

from pathlib import Path

from pargo_mllm.auto_map import CONFIG_FILE, PROCESSOR_FILE, name_classes
from pargo_mllm.loading import check_model_folder


def prepare_for_serving(folder: Path) -> None:
    """Add to a folder of model and processor, saved by an older version, what engines need. Weights are not touched.

    Raises:
        ModelFolderError: if the folder holds no ParGo model with its processor.
    """
    check_model_folder(folder)
    for name in (CONFIG_FILE, PROCESSOR_FILE):
        name_classes(folder, name)
