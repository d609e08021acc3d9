"""Reading weights that others published."""

from pargo_mllm.checkpoints.released_projector import convert_released_projector
from pargo_mllm.checkpoints.released_vision_encoder import convert_released_vision_encoder

__all__ = ["convert_released_projector", "convert_released_vision_encoder"]
