"""The interface of every projector."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel
from transformers import initialization as init

from pargo_mllm.configuration import PROJECTOR_ATTENTION, ParGoProjectorConfig


class ProjectorPreTrainedModel(PreTrainedModel):
    """A model from features ``[B, n_v, vision_hidden_size]`` to tokens ``[B, config.num_output_tokens(n_v), output_size]``.

    Subclasses have ``output_proj``, the map to the language model, and ``forward(vision_features)``. Saves, loads and
    initialises as any model of transformers does.
    """

    config_class = ParGoProjectorConfig
    config: ParGoProjectorConfig
    base_model_prefix = "projector"
    main_input_name = "vision_features"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: ParGoProjectorConfig):
        super().__init__(config)
        for name in ("vision_hidden_size", "output_size"):
            if getattr(config, name) is None:
                raise ValueError(f"projector_config.{name} is None; set it, or build the projector through a ParGoConfig.")

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        """ "pargo" unless a dense baseline is asked for.

        Raises:
            ValueError: for an implementation that cannot compute the projector's layouts.
        """
        if requested_attention is None:
            return "pargo"
        if requested_attention not in PROJECTOR_ATTENTION:
            raise ValueError(
                f"attn_implementation={requested_attention!r} cannot run the projector; it takes "
                f"{', '.join(map(repr, PROJECTOR_ATTENTION))}. Name the part it is for, as in "
                f"attn_implementation={{'': {requested_attention!r}, 'projector_config': 'pargo'}}."
            )
        return requested_attention

    def check_features(self, vision_features: torch.Tensor) -> None:
        """Refuse features of another rank or width."""
        if vision_features.dim() != 3 or vision_features.shape[-1] != self.config.vision_hidden_size:
            raise ValueError(
                f"vision_features has shape {list(vision_features.shape)}; it must be [images, n_v, "
                f"{self.config.vision_hidden_size}], the encoder's features without the class token."
            )

    def _init_weights(self, module):
        super()._init_weights(module)
        if hasattr(module, "query_tokens"):
            init.normal_(module.query_tokens, mean=0.0, std=self.config.query_initializer_range)
        if isinstance(module, ProjectorPreTrainedModel):
            init.normal_(module.output_proj.weight, mean=0.0, std=self.config.output_initializer_range)
        if getattr(module, "position_embeddings", None) is not None:
            init.normal_(module.position_embeddings, mean=0.0, std=self.config.initializer_range)
