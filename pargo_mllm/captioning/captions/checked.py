"""Whether what a model said can be a caption."""

from __future__ import annotations

import unicodedata

from pargo_mllm.data.sources.llava_records import MARK
from pargo_mllm.endpoint import Answer, Failure

# what a decoder puts where there was no character
_NONE = "\ufffd"
_SPACES = "\t\n\r"


def checked(answer: Answer) -> Answer | Failure:
    """An answer, or why it is no caption. It was paid for, and is kept as a failure that can be asked about again."""
    if MARK in answer.text:
        return Failure(f"it holds {MARK}", True, "mark", answer.usage)
    for character in answer.text:
        if character == _NONE or (unicodedata.category(character) in ("Cc", "Cs") and character not in _SPACES):
            return Failure(f"it holds the character U+{ord(character):04X}", True, "damaged", answer.usage)
    return answer
