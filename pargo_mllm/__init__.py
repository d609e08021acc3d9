"""ParGo in a multimodal model: the projector, the model around it, its training, data and evaluation.

Importing the package registers the model with transformers' Auto classes.
"""

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
