"""The pictures that regions are of: which one a name means, and how it lies in its file."""

from __future__ import annotations

import os
import posixpath
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.open_corpus import is_list
from pargo_mllm.data.pictures import stored_size, turned_size
from pargo_mllm.data.preparation.patches.told import Told
from pargo_mllm.data.scenes.corpus import Scenes
from pargo_mllm.data.sources.llava import picture_folder
from pargo_mllm.data.sources.opening import leads_inside, named_file
from pargo_mllm.data.sources.shard_samples import PICTURES
from pargo_mllm.data.sources.shards import ShardCorpus, is_shard

# what several pictures are called
SEVERAL = ""


class Pictures(ABC):
    """Pictures by name."""

    def find(self, told: Told) -> str | None:
        """The picture that something is said of: the one of that name, or the only one whose name ends or begins so.
        :data:`SEVERAL` where it could be any of several; None where there is none.
        """
        if told.image and self.has(told.image):
            return posixpath.normpath(told.image)
        last = posixpath.basename(told.image)
        stems = (posixpath.splitext(last)[0],) if last else told.stems
        if last and last in self._by_last:
            return self._by_last[last]
        # what shards hold has no extensions, and a number has none either
        if not last or self.without_extensions:
            return next((self._by_stem[stem] for stem in stems if stem in self._by_stem), None)
        return None

    #: whether the pictures' names have no extensions
    without_extensions = False

    @abstractmethod
    def names(self) -> Iterator[str]:
        """What they are called."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether one is called so."""

    @abstractmethod
    def stored(self, name: str) -> tuple[tuple[int, int], int]:
        """See :func:`pargo_mllm.data.pictures.stored_size`."""

    def upright(self, name: str) -> tuple[int, int]:
        """Width and height of a picture as it is loaded.

        Raises:
            PictureError, CorpusError, OSError: if it cannot be read.
        """
        return turned_size(*self.stored(name))

    @cached_property
    def _by_last(self) -> dict[str, str]:
        return _each_once((posixpath.basename(name), name) for name in self.names())

    @cached_property
    def _by_stem(self) -> dict[str, str]:
        if self.without_extensions:
            return self._by_last
        return _each_once((posixpath.splitext(posixpath.basename(name))[0], name) for name in self.names())


class FolderPictures(Pictures):
    """Those of a folder and of the folders below it; links are followed."""

    def __init__(self, root: Path):
        self.root = root

    def names(self) -> Iterator[str]:
        """See :class:`Pictures`."""
        seen = set()
        for where, folders, files in os.walk(self.root, followlinks=True):
            status = os.stat(where)
            # a link may lead back up
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            for file in files:
                if not file.startswith(".") and file.rpartition(".")[2].lower() in PICTURES:
                    yield Path(os.path.relpath(os.path.join(where, file), self.root)).as_posix()

    def has(self, name: str) -> bool:
        """See :class:`Pictures`."""
        return leads_inside(name) and named_file(self.root, name).is_file()

    def stored(self, name: str) -> tuple[tuple[int, int], int]:
        """See :class:`Pictures`."""
        return stored_size(named_file(self.root, name), name)


class ShardPictures(Pictures):
    """Those of shards, called as their samples' keys are."""

    without_extensions = True

    def __init__(self, path: Path):
        self.corpus = ShardCorpus(path)

    def names(self) -> Iterator[str]:
        """See :class:`Pictures`."""
        return iter(self._places)

    def has(self, name: str) -> bool:
        """See :class:`Pictures`."""
        return name in self._places

    def stored(self, name: str) -> tuple[tuple[int, int], int]:
        """See :class:`Pictures`."""
        index, number = self._places[name]
        return stored_size(self.corpus.raw(index).pictures[number], name)

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        places = {}
        for index in range(len(self.corpus)):
            for number, name in enumerate(self.corpus.picture_names(index)):
                places[name] = (index, number)
        return places


def pictures_of(data: str, image_root: Path | None = None) -> Pictures:
    """The pictures of a LLaVA list, a prepared or COCO-style folder, shards, or a folder of nothing but pictures.

    Args:
        image_root: of a list, where its pictures lie.

    Raises:
        CorpusError: if there is nothing of these, or ``image_root`` is given for another than a list.
    """
    if Scenes.parse(data) is not None:
        raise CorpusError(f"{data}: scenes know what is where in them; no file is needed.")
    path = Path(data)
    try:
        if is_list(path) and path.is_file():
            return FolderPictures(_folder(image_root) if image_root is not None else picture_folder(path))
        if image_root is not None:
            raise CorpusError(f"--image-root says where a LLaVA list has its pictures; {path} is none: leave it out.")
        if (path.is_file() and is_shard(path)) or (path.is_dir() and any(map(is_shard, path.iterdir()))):
            return ShardPictures(path)
        return FolderPictures(path / "images" if (path / "images").is_dir() else _folder(path))
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{data!r} cannot be the name of a file.") from error


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise CorpusError(f"{path} is no folder; give data, as training takes them, or a folder of pictures.")
    return path


def _each_once(pairs) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, name in pairs:
        found[key] = SEVERAL if key in found else name
    return found
