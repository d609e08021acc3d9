"""Files that a user's data name: opened only where they are files, looked for only where they may lie."""

from __future__ import annotations

import codecs
import io
import os
import re
import stat
import unicodedata
from pathlib import Path

# bytes: what Linux lets a name, and a path, have
_MAX_NAME, _MAX_PATH = 255, 4095
# bytes of a file that is read whole; the largest official one of a set has 700 MB
MAX_WHOLE = 2**31
# what is no text in UTF-8, by its first bytes
_OTHERS = {
    codecs.BOM_UTF16_LE: "it is UTF-16: save it as UTF-8",
    codecs.BOM_UTF16_BE: "it is UTF-16: save it as UTF-8",
    b"\x1f\x8b": "it is compressed: unpack it",
    b"BZh": "it is compressed: unpack it",
    b"\xfd7zXZ\0": "it is compressed: unpack it",
    b"\x28\xb5\x2f\xfd": "it is compressed: unpack it",
    b"PK\x03\x04": "it is a zip archive: unpack it",
}
# of Windows; to others a name may begin so, and none that is meant does
_DRIVE = re.compile(r"[A-Za-z]:")


def open_regular(file: str | os.PathLike) -> io.FileIO:
    """A file, opened for reading bytes, without a buffer.

    Raises:
        OSError: if it cannot be opened, or is anything but a file: a pipe would be waited for without end.
    """
    # a pipe that is opened so is not waited for; to a file it means nothing
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{os.fspath(file)} is no regular file, but a folder, a pipe, a socket or a device")
    return open(descriptor, "rb", buffering=0)


def read_whole(file: str | os.PathLike, most: int = MAX_WHOLE) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: as :func:`open_regular`; and if there are more than ``most``.
    """
    with open_regular(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        if size > most:
            raise OSError(f"{os.fspath(file)} has {size:,} bytes; at most {most:,} are read whole")
        return opened.read(most)


def no_text(begins: bytes) -> str | None:
    """Why a file that begins so can be no text in UTF-8, and what to do about it; None where it may be one."""
    return next((why for mark, why in _OTHERS.items() if begins.startswith(mark)), None)


def leads_inside(name: str) -> bool:
    """Whether a name can be that of a file in a folder or below it: relative, nowhere up, and one that a file can have.

    What would lead out on Windows (``..\\x``, ``C:\\x``) is none, wherever it is read.
    """
    there = set(re.split(r"[\\/]", name))
    # the last of these is the folder itself
    if ("\\" in name and (name[0] == "\\" or ".." in there or there <= {"", "."})) or _DRIVE.match(name):
        return False
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return False
    pieces = name.split("/")
    return (
        pieces[0] != ""
        and pieces[-1] not in ("", ".")
        and ".." not in pieces
        and "\0" not in name
        and size <= _MAX_PATH
        and all(len(piece.encode()) <= _MAX_NAME for piece in pieces)
    )


def named_file(folder: Path, name: str) -> Path:
    """The file of a name in a folder. Accents may be spelled in two ways: that of the disk is taken where the other is absent.

    A link that lies there is followed, wherever it leads: whoever made the folder put it there. What copies, publishes or
    shows a file asks :func:`leads_out` first.
    """
    path = folder / name
    if name.isascii() or os.path.lexists(path):
        return path
    spelled = (folder / unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    return next((other for other in spelled if os.path.lexists(other)), path)


def leads_out(folder: str | os.PathLike, path: str | os.PathLike) -> bool:
    """Whether a file that lies in a folder is really, by its links, somewhere else. The folder may be a link itself."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def link_leads_out(folder: str | os.PathLike, path: str | os.PathLike) -> bool:
    """Whether a file is itself a link that leads out of the folder it lies in: whoever sent the file may mean a private one.

    A folder that is a link, such as ``train2017 -> /datasets/…``, was laid there by its user, and so were the files in it.
    """
    return os.path.islink(path) and leads_out(folder, path)
