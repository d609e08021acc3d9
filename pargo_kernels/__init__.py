"""Block-sparse partial-global and cascaded attention (ParGo) for PyTorch, without any dense mask.

``pargo_kernels.partial_global_attention`` and ``pargo_kernels.cascaded_partial_attention`` are modules; the functions are in
them and in ``pargo_kernels.ops``.
"""

from pargo_kernels.merge import merge_attention_states

__version__ = "0.1.0"
__all__ = ["merge_attention_states"]
