"""How transformers finds the classes of a saved model: ``auto_map`` in its JSON files, and the small file it points to.

That file only imports this package. So ``AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)`` works in
a process that never imported it, and so do engines that load through transformers.
"""

from __future__ import annotations

import json
from pathlib import Path

from pargo_mllm.files import write_whole

MODULE = "pargo_classes"
CONFIG_FILE, PROCESSOR_FILE = "config.json", "processor_config.json"
_CLASSES = {
    CONFIG_FILE: {
        "AutoConfig": "ParGoConfig",
        "AutoModel": "ParGoModel",
        "AutoModelForImageTextToText": "ParGoForConditionalGeneration",
    },
    PROCESSOR_FILE: {"AutoProcessor": "ParGoProcessor"},
}
# inside "try", or transformers would name a package "pargo_mllm" to be installed
_SOURCE = '''"""Where to find the classes of this model: the package pargo must be installed."""

try:
    from pargo_mllm import ParGoConfig, ParGoForConditionalGeneration, ParGoModel, ParGoProcessor
except ImportError as error:
    raise ImportError(f"this is a ParGo model, which needs pip install 'pargo[mllm]': {error}") from error
'''


def name_classes(folder: Path, name: str) -> None:
    """Put ``auto_map`` into a folder's file ``name``, :data:`CONFIG_FILE` or :data:`PROCESSOR_FILE`, and its module beside it.

    Raises:
        OSError, ValueError: if the file is not there, or holds no JSON object.
    """
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    content["auto_map"] = {auto: f"{MODULE}.{cls}" for auto, cls in _CLASSES[name].items()}
    write_whole(folder / f"{MODULE}.py", _SOURCE)
    write_whole(folder / name, json.dumps(content, indent=2) + "\n")


class NamesItsClasses:
    """For classes whose folders name them: their source, which lies in this package, is not copied into folders."""

    @classmethod
    def register_for_auto_class(cls, auto_class="") -> None:
        """Nothing: transformers asks for the copy after it has loaded a class through ``auto_map``."""
