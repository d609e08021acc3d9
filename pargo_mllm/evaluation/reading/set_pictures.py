"""The pictures of a benchmark that are files of its folder, found by the names that its files give them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from threading import Lock

from PIL import Image

from pargo_mllm.data.pictures import PictureError, load_picture
from pargo_mllm.data.sources.opening import leads_inside, named_file

Opens = Callable[[], Image.Image]

# what the keys of pictures without a name begin with
DIGEST = "sha256:"
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class PictureFolder:
    """The pictures of a benchmark's folder, found by the names that its files give them.

    Args:
        data: the folder, or a file in it.
    """

    def __init__(self, data: Path):
        self.root = data if data.is_dir() else data.parent
        self._by_name: dict[str, list[str]] | None = None
        # threads open pictures side by side
        self._looking = Lock()

    def opens(self, name: str) -> Opens:
        """What opens the RGB picture of that name: as the files name it below the folder, or anywhere below it.

        It raises :class:`pargo_mllm.data.pictures.PictureError` when it is called and there is none, or several.
        """
        return partial(self._open, name)

    def _open(self, name: str) -> Image.Image:
        return load_picture(self.file(name))

    def file(self, name: str) -> Path:
        """The file of that name: below the folder, below its ``images/``, or the one anywhere below whose name it ends with.

        Raises:
            PictureError: if there is none, or several, or the name leads out of the folder.
        """
        if not leads_inside(name):
            raise PictureError(
                f"{name!r} cannot be the name of a picture in {self.root}: it leads out of it, or no file has it."
            )
        for folder in (self.root, self.root / "images"):
            path = named_file(folder, name)
            if path.is_file():
                return path
        candidates = self._all().get(PurePosixPath(name).name, [])
        closest = [path for path in candidates if path == name or path.endswith(f"/{name}")] or candidates
        if len(closest) == 1:
            return self.root / closest[0]
        if closest:
            raise PictureError(
                f"{name} is the name of {len(closest)} pictures in {self.root}: {', '.join(sorted(closest)[:5])}."
            )
        raise PictureError(f"{name} is not in {self.root}, nor below it.")

    def _all(self) -> dict[str, list[str]]:
        """The files below the folder by their own name, as paths in it; looked for once, and only where it is needed."""
        with self._looking:
            if self._by_name is None:
                self._by_name = self._found()
        return self._by_name

    def _found(self) -> dict[str, list[str]]:
        by_name: dict[str, list[str]] = {}
        seen: set[str] = set()
        for place, folders, files in os.walk(self.root, followlinks=True):
            # links may lead round in a circle
            real = os.path.realpath(place)
            if real in seen:
                folders[:] = []
                continue
            seen.add(real)
            for file in files:
                path = (Path(place) / file).relative_to(self.root).as_posix()
                by_name.setdefault(file, []).append(path)
        return by_name


def same_picture(one: str, other: str) -> bool:
    """Whether two names can be of the same picture: paths that end alike, with or without an ending such as ``.jpg``, and
    COCO's numbers with or without what COCO puts in front of them. A digest is no name, and can be any picture.
    """
    if not one or not other or one.startswith(DIGEST) or other.startswith(DIGEST):
        return True
    pieces, others = _pieces(one), _pieces(other)
    shorter = min(len(pieces), len(others))
    return pieces[-shorter:] == others[-shorter:]


def last_name(picture: str) -> str:
    """The last piece of a picture's name, the same for all names that :func:`same_picture` takes for one; "" for none."""
    return "" if not picture or picture.startswith(DIGEST) else _pieces(picture)[-1]


def _pieces(name: str) -> list[str]:
    pieces = [piece for piece in name.replace("\\", "/").split("/") if piece not in ("", ".")] or [name]
    stem, ending = os.path.splitext(pieces[-1])
    last = stem if ending.lower() in _ENDINGS else pieces[-1]
    number = last.rsplit("_", 1)[-1] if last.startswith("COCO_") else last
    if number.isascii() and number.isdigit():
        last = number.lstrip("0") or "0"
    return [*pieces[:-1], last]
