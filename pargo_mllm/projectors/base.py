"""The interface of every projector."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel
from transformers import initialization as init

from pargo_mllm.configuration import PROJECTOR_ATTENTION, ParGoProjectorConfig


class ProjectorPreTrainedModel(PreTrainedModel):
    """A model from features ``[B, n_v, vision_hidden_size]`` to tokens ``[B, config.num_output_tokens(n_v), output_size]``.

    Subclasses have ``output_proj``, the map to the language model, and ``forward(vision_features)``. Where
    ``config.reads_tiles_together`` it is ``forward(vision_features, cu_seqlens=None)``, and all tiles of a large picture are
    read at once: with ``cu_seqlens``, int32 ``[B + 1]`` on the features' device, features come packed as
    ``[1, total, vision_hidden_size]`` and picture ``b`` owns ``[cu_seqlens[b], cu_seqlens[b + 1])``. Other projectors turn
    every tile into tokens of its own. Saves, loads and initialises as any model of transformers does.
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


class GridProjector(ProjectorPreTrainedModel):
    """A projector that knows where in the picture a feature comes from: ``config.feature_grid``, in raster order."""

    def __init__(self, config: ParGoProjectorConfig):
        super().__init__(config)
        if config.feature_grid is None:
            raise ValueError(
                f"projector_config.feature_grid is None, and projector_type={config.projector_type!r} needs the rows and "
                "columns of the patches; set it, or build the projector through a ParGoConfig."
            )
        self.rows, self.columns = config.feature_grid

    def check_features(self, vision_features: torch.Tensor) -> None:
        """Refuse features of another rank, width or grid."""
        super().check_features(vision_features)
        if vision_features.shape[1] != self.rows * self.columns:
            raise ValueError(
                f"vision_features has n_v={vision_features.shape[1]} features; feature_grid={[self.rows, self.columns]} has "
                f"{self.rows * self.columns}: give patches alone, without a class token, and large pictures tile by tile."
            )
