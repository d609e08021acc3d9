"""The two attentions as functions: ``from pargo_kernels.ops import partial_global_attention, cascaded_partial_attention``."""

from pargo_kernels.cascaded_partial_attention import cascaded_partial_attention
from pargo_kernels.partial_global_attention import partial_global_attention

__all__ = ["cascaded_partial_attention", "partial_global_attention"]
