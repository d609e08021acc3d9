"""ParGo in a multimodal model: the projector, the model around it, its training, data and evaluation.

Importing the package registers the model with transformers' Auto classes. It needs ``pip install 'pargo[mllm]'``.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

# what pip calls the packages of the extra "mllm", by the names they are imported by
REQUIRED_PACKAGES = {
    "transformers": "transformers",
    "peft": "peft",
    "accelerate": "accelerate",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "PIL": "pillow",
    "jinja2": "jinja2",
    "yaml": "pyyaml",
    "tensorboard": "tensorboard",
    "tqdm": "tqdm",
    "orjson": "orjson",
}
# looked for, not imported: an ImportError inside a package that is there stays what it is
_missing = [name for name in REQUIRED_PACKAGES if find_spec(name) is None]
if _missing:
    _message = f"pargo_mllm needs {', '.join(REQUIRED_PACKAGES[name] for name in _missing)}: pip install 'pargo[mllm]'"
    # both forms of the command import this package before any code of theirs runs; "-m" stands here until a module is found
    if sys.argv[:1] == ["-m"] or Path(*sys.argv[:1]).name in ("pargo", "pargo.exe"):
        print(f"pargo: {_message}", file=sys.stderr)
        raise SystemExit(2)
    raise ModuleNotFoundError(_message, name=_missing[0])

if sys.argv[:1] == ["-m"] and __name__ in sys.orig_argv:
    # "python -m pargo_mllm": help and slips of the pen are answered before a model is imported
    from pargo_cli.main import build_parser, prepare

    build_parser().parse_args()
    prepare()

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

import pargo_mllm.language.internlm2  # noqa: F401 (registers InternLM2)
from pargo_mllm.configuration import ParGoConfig, ParGoProjectorConfig
from pargo_mllm.modeling import ParGoForConditionalGeneration, ParGoModel, ParGoPreTrainedModel
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.projectors import ProjectorPreTrainedModel, build_projector
from pargo_mllm.vision import Eva02VisionConfig, Eva02VisionModel

AutoConfig.register("pargo", ParGoConfig, exist_ok=True)
AutoModel.register(ParGoConfig, ParGoModel, exist_ok=True)
AutoModelForImageTextToText.register(ParGoConfig, ParGoForConditionalGeneration, exist_ok=True)
AutoProcessor.register(ParGoConfig, ParGoProcessor, exist_ok=True)

__all__ = [
    "Eva02VisionConfig",
    "Eva02VisionModel",
    "ParGoConfig",
    "ParGoForConditionalGeneration",
    "ParGoModel",
    "ParGoPreTrainedModel",
    "ParGoProcessor",
    "ParGoProjectorConfig",
    "ProjectorPreTrainedModel",
    "build_projector",
]
