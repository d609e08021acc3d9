"""Projectors: from visual features to tokens of the language model, behind one interface."""

from __future__ import annotations

import importlib

from pargo_mllm.configuration import PROJECTORS, ParGoProjectorConfig
from pargo_mllm.projectors.base import ProjectorPreTrainedModel
from pargo_mllm.projectors.c_abstractor import CAbstractorProjector
from pargo_mllm.projectors.d_abstractor import DAbstractorProjector
from pargo_mllm.projectors.linear import LinearProjector
from pargo_mllm.projectors.mlp import MLPProjector
from pargo_mllm.projectors.pargo import ParGoProjector
from pargo_mllm.projectors.qformer import QFormerProjector
from pargo_mllm.projectors.resampler import ResamplerProjector


def build_projector(config: ParGoProjectorConfig) -> ProjectorPreTrainedModel:
    """The projector that ``config.projector_type`` names, with fresh weights."""
    module, _, name = PROJECTORS[config.projector_type].where.rpartition(".")
    return getattr(importlib.import_module(module), name)(config)


__all__ = [
    "CAbstractorProjector",
    "DAbstractorProjector",
    "LinearProjector",
    "MLPProjector",
    "ParGoProjector",
    "ProjectorPreTrainedModel",
    "QFormerProjector",
    "ResamplerProjector",
    "build_projector",
]
