"""The Q-Former to compare with: ParGo's layers without its masks."""

from __future__ import annotations

from pargo_mllm.configuration import ParGoProjectorConfig
from pargo_mllm.projectors.pargo import ParGoProjector


class QFormerProjector(ParGoProjector):
    """``num_partial_tokens + num_global_tokens`` tokens, all of them global: each sees the whole picture and every token."""

    def __init__(self, config: ParGoProjectorConfig):
        if config.projector_type != "qformer":
            raise ValueError(f"projector_type={config.projector_type!r} is not 'qformer'; build_projector chooses the class.")
        super().__init__(config)
