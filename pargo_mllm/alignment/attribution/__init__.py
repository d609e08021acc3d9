"""Where tokens come from, by several methods, each named, and each saying whether it is exact."""

from pargo_mllm.alignment.attribution.answers import ANSWER_METHODS, AnswerAttribution, attribute_answer
from pargo_mllm.alignment.attribution.patches import attribute, attribute_features, possible_methods
from pargo_mllm.alignment.attribution.result import METHODS, Attribution, AttributionError

__all__ = [
    "ANSWER_METHODS",
    "METHODS",
    "AnswerAttribution",
    "Attribution",
    "AttributionError",
    "attribute",
    "attribute_answer",
    "attribute_features",
    "possible_methods",
]
