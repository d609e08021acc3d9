"""Pictures that rows hold themselves, laid aside as the rows are read: memory does not grow with a table's pictures."""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any
from weakref import finalize

from PIL import Image

from pargo_mllm.data.pictures import PictureError, load_picture
from pargo_mllm.evaluation.benchmark import EvaluationError
from pargo_mllm.evaluation.reading.set_pictures import DIGEST

# bytes; what comes on top lies in a temporary file
IN_MEMORY = 2**28


@dataclass(frozen=True)
class Held:
    """A picture that a row held.

    Args:
        key: what tells it apart: ``sha256:`` and the digest of its bytes.
        opens: opens it, RGB; raises :class:`pargo_mllm.data.pictures.PictureError` where the row held no picture.
    """

    key: str
    opens: Callable[[], Image.Image]


class Shelf:
    """Keeps the bytes of pictures, the same ones once. Threads may open them side by side.

    Args:
        in_memory: bytes; when there are more, all lie in a temporary file without a name, which goes with the shelf.
    """

    def __init__(self, in_memory: int = IN_MEMORY):
        # it lives as long as the shelf
        self._file = tempfile.SpooledTemporaryFile(max_size=in_memory)  # noqa: SIM115
        finalize(self, self._file.close)
        self._places: dict[str, tuple[int, int]] = {}
        # bytes, of all that is kept
        self.size = 0
        self._at_the_file = Lock()

    def keep(self, value: Any, name: str) -> Held:
        """Lay aside what a row holds: base64 text (VLMEvalKit's tables), bytes, or ``{"bytes": …, "path": …}`` (the hub's
        parquet).

        Args:
            name: what errors call it.

        Raises:
            EvaluationError: if the disk does not hold it.
        """
        content = _content(value)
        if content is None:
            return Held(f"{DIGEST}{_digest(repr(value)[:1000].encode())}", partial(_refuse, name))
        key = f"{DIGEST}{_digest(content)}"
        self._add(key, content)
        return Held(key, partial(self._open, key, name))

    def _add(self, key: str, content: bytes) -> None:
        with self._at_the_file:
            if key in self._places:
                return
            try:
                self._file.seek(self.size)
                self._file.write(content)
            except OSError as error:
                raise EvaluationError(
                    f"the pictures that the rows hold are laid into {tempfile.gettempdir()}, which fails: "
                    f"{error.strerror or error}; TMPDIR names another folder."
                ) from error
            self._places[key] = (self.size, len(content))
            self.size += len(content)

    def _open(self, key: str, name: str) -> Image.Image:
        start, length = self._places[key]
        with self._at_the_file:
            self._file.seek(start)
            content = self._file.read(length)
        return load_picture(content, name)


def _content(value: Any) -> bytes | None:
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if isinstance(value, (bytes, bytearray)):
        return bytes(value) or None
    if isinstance(value, str):
        try:
            return base64.b64decode("".join(value.split()), validate=True) or None
        except ValueError:
            return None
    return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _refuse(name: str) -> Image.Image:
    raise PictureError(f"{name} holds no picture: neither bytes nor base64 text.")
