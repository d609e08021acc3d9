"""Files that strangers wrote, as bytes and as lines of UTF-8; what is none is refused with the line and the way out."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pargo_mllm.data.sources.opening import open_regular
from pargo_mllm.evaluation.benchmark import ScoringError

_MARK = b"\xef\xbb\xbf"
# what files begin with that are text in no sense that is read here, with the way out
_OTHERS = {
    b"\xff\xfe": "it is UTF-16: save it as UTF-8",
    b"\xfe\xff": "it is UTF-16: save it as UTF-8",
    b"\x1f\x8b": "it is compressed: unpack it",
    b"\xd0\xcf\x11\xe0": "it is an Excel file of before 2007 (.xls): save it as .xlsx",
}


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file.

    Raises:
        ScoringError: if there is none, or it cannot be read, at any time while it is.
    """
    try:
        with io.BufferedReader(open_regular(file)) as content:
            yield content
    except (OSError, ValueError) as error:
        if isinstance(error, ScoringError):
            raise
        raise ScoringError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def text_lines(file: Path) -> Iterator[str]:
    """The lines of a text file, each with its end, a line feed; a byte order mark is no text.

    Raises:
        ScoringError: for a file that cannot be read or is no UTF-8, with the line.
    """
    with opened(file) as content:
        for number, line in enumerate(content, start=1):
            if number == 1:
                for begin, way_out in _OTHERS.items():
                    if line.startswith(begin):
                        raise ScoringError(f"{file}, line 1: {way_out}.")
                line = line.removeprefix(_MARK)
            if b"\0" in line:
                raise ScoringError(
                    f"{file}, line {number}: it holds a zero byte, as UTF-16 and damaged files do: save it as UTF-8."
                )
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                byte = line[error.start]
                raise ScoringError(
                    f"{file}, line {number}: its byte {error.start + 1}, 0x{byte:02x}, is no UTF-8 (latin-1, perhaps): "
                    "save the file as UTF-8."
                ) from error


def begins(file: Path) -> bytes:
    """The first bytes of a file that tell what it is: no byte order mark, no white space in front."""
    with opened(file) as content:
        return content.read(4096).removeprefix(_MARK).lstrip()[:16]
