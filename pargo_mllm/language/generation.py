"""Generation settings that a folder can hold: transformers loads more of them than it saves again."""

from __future__ import annotations

import re
import tempfile
import warnings
from typing import Any

from transformers import GenerationConfig

# how transformers lists the settings that have no effect beside the others
_REFUSED = re.compile(r"^- `(\w+)`:", re.MULTILINE)


def make_savable(generation: GenerationConfig) -> dict[str, Any]:
    """Unset, in place, the settings for which transformers refuses to save; a warning names them.

    They are those without effect beside the others: ``temperature`` and ``top_p`` without ``do_sample``, as Vicuna has them.
    So the model generates as before; what is settled otherwise stays.

    Returns:
        the settings that were unset, with their values.

    Raises:
        ValueError: if transformers refuses to save for another reason.
    """
    unset: dict[str, Any] = {}
    while (refusal := _refusal(generation)) is not None:
        # one whose value is None already cannot be what is refused
        names = [name for name in _REFUSED.findall(str(refusal)) if getattr(generation, name, None) is not None]
        if not names:
            raise refusal
        for name in names:
            unset[name] = getattr(generation, name)
            setattr(generation, name, None)
    if unset:
        told = ", ".join(f"{name}={value!r}" for name, value in unset.items())
        warnings.warn(f"generation settings without effect beside the others are left out: {told}", stacklevel=2)
    return unset


def _refusal(generation: GenerationConfig) -> ValueError | None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            generation.save_pretrained(folder)
        except ValueError as error:
            return error
    return None
