"""Vision encoders that transformers does not have. CLIP and SigLIP come from there."""

from transformers import AutoConfig, AutoModel

from pargo_mllm.vision.eva02 import Eva02VisionConfig, Eva02VisionModel

AutoConfig.register(Eva02VisionConfig.model_type, Eva02VisionConfig, exist_ok=True)
AutoModel.register(Eva02VisionConfig, Eva02VisionModel, exist_ok=True)

__all__ = ["Eva02VisionConfig", "Eva02VisionModel"]
