"""Pickles that strangers wrote: plain values alone are read."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.sources.opening import open_regular


class _Plain(pickle.Unpickler):
    """Reads texts, numbers, lists and dictionaries; whatever would run code is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants to use {module_name}.{global_name}")


def plain_pickle(file: Path) -> Any:
    """What a pickle holds, also one of Python 2.

    Raises:
        CorpusError: if it cannot be read, or would run code.
    """
    try:
        with io.BufferedReader(open_regular(file)) as content:
            return _Plain(content, encoding="utf-8", errors="replace").load()
    except Exception as error:
        # whatever a file can make of the reader
        raise CorpusError(f"{file} cannot be read as a pickle of plain values: {type(error).__name__}: {error}.") from error
