"""What trains and what is frozen, under its public name; it lives in :mod:`pargo_mllm.training.trainer.parts`."""

from pargo_mllm.training.trainer.parts import PARTS, count_parameters, describe_parts, freeze_all_but, part_of

__all__ = ["PARTS", "count_parameters", "describe_parts", "freeze_all_but", "part_of"]
