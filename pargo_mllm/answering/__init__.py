"""Answers to conversations: one at a time or in batches (:mod:`.turns`), and many about the same pictures (:mod:`.reader`)."""

from pargo_mllm.answering.turns import MAX_NEW_TOKENS, answer, generation_settings

__all__ = ["MAX_NEW_TOKENS", "answer", "generation_settings"]
