"""Our file of what is where in pictures: ``regions.jsonl``, a picture a line."""

from __future__ import annotations

import hashlib
import os
import posixpath
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from pargo_mllm.data.corpus import CorpusError, OtherShape, Tally, all_skipped, counted, shown
from pargo_mllm.data.held_out import name_hash
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.data.regions import Region
from pargo_mllm.data.sources.json_rows import DAMAGED, json_lines, parse_json
from pargo_mllm.data.sources.opening import open_regular
from pargo_mllm.data.sources.region_lines import PictureLine, UnusableRegion, read_line, same_shape

DAMAGED_LINE = "lines that are no JSON"
AGAIN = "lines of a picture that an earlier line names"
OF_LINES = "regions of lines that cannot be used"


class RegionFile:
    """A file of lines as :mod:`pargo_mllm.data.sources.region_lines` describes them. Lines and regions that cannot be used are
    left out and counted. Of each picture 32 bytes are kept; what is in it is read again when it is asked for.

    Attributes:
        names: what regions are called, the first name of each of their labels, sorted.
        digest: SHA-256 of the file's lines.
        tallies: what became of its "pictures" and of its "regions".

    Raises:
        CorpusError: if the file cannot be read, a line is too long, or no picture is left.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        digest, names = hashlib.sha256(), set[str]()
        hashes, starts, sizes, texts = array("Q"), array("Q"), array("Q"), array("Q")
        seen: set[int] = set()
        lines = regions = used = 0
        problems: dict[str, Counter[str]] = {"pictures": Counter(), "regions": Counter()}
        for row in json_lines(self.path):
            lines += 1
            digest.update(row.text)
            held = row.value.get("regions") if isinstance(row.value, dict) else None
            count = len(held) if isinstance(held, list) else 0
            regions += count
            try:
                line = _line(row.value)
                picture = name_hash(posixpath.normpath(line.image))
                if picture in seen:
                    raise UnusableRegion(AGAIN)
            except UnusableRegion as problem:
                problems["pictures"][f"{problem}"] += 1
                problems["regions"][OF_LINES] += count
                continue
            seen.add(picture)
            problems["regions"] += line.skipped
            used += len(line.things)
            names.update(label[0] for thing in line.things for label in thing.labels)
            hashes.append(picture)
            starts.append(row.start)
            sizes.append(len(row.text))
            texts.append(_text_hash(row.text))
        order = np.argsort(np.array(hashes, dtype=np.uint64), kind="stable")
        self._hashes, self._starts, self._sizes, self._texts = (
            np.array(one, dtype=np.uint64)[order] for one in (hashes, starts, sizes, texts)
        )
        self.names, self.digest = tuple(sorted(names)), digest.hexdigest()
        self.tallies: Mapping[str, Tally] = {
            "pictures": Tally(lines, len(hashes), skipped=problems["pictures"]),
            "regions": Tally(regions, used, skipped=+problems["regions"]),
        }
        if not len(hashes):
            found = "holds no line" if not lines else f"of {lines:,} lines has none that can be used"
            raise CorpusError(
                f"{self.path} {found}{counted(all_skipped(self.tallies))}; it must be what pargo data patches writes, a line "
                '{"image", "size", "regions": [{"labels", "box"}]} a picture.'
            )

    def __len__(self) -> int:
        """How many pictures it says anything of."""
        return len(self._hashes)

    def __contains__(self, image: str) -> bool:
        return self._place(image) is not None

    def of(self, image: str) -> tuple[Region, ...]:
        """What is where in a picture, as it is upright; nothing for one that the file does not name.

        Args:
            image: its name, as a list or a folder has it; of a sample in shards its key.

        Raises:
            CorpusError: if the file has changed since it was opened.
        """
        line = self.line(image)
        return () if line is None else tuple(region for thing in line.things for region in thing.regions())

    def line(self, image: str) -> PictureLine | None:
        """The line of a picture.

        Raises:
            CorpusError: as :meth:`of`.
        """
        place = self._place(image)
        if place is None:
            return None
        line = self._read(place)
        # another name may have the same hash
        return line if posixpath.normpath(line.image) == posixpath.normpath(image) else None

    def lines(self) -> Iterator[PictureLine]:
        """All lines that are used, in the file's order.

        Raises:
            CorpusError: as :meth:`of`.
        """
        for place in np.argsort(self._starts, kind="stable"):
            yield self._read(place)

    def _read(self, place: int) -> PictureLine:
        start, size = int(self._starts[place]), int(self._sizes[place])
        name = f"{self.path}, byte {start:,}"
        try:
            with open_regular(self.path) as opened:
                text = os.pread(opened.fileno(), size, start)
        except OSError as error:
            raise CorpusError(f"{name} cannot be read any more: {error}.") from error
        if _text_hash(text) != int(self._texts[place]):
            raise CorpusError(f"{self.path} has changed since it was opened: byte {start:,} begins another line now.")
        return _line(parse_json(text, name))

    def _place(self, image: str) -> int | None:
        # what names no file names no picture
        try:
            wanted = np.uint64(name_hash(posixpath.normpath(image)))
        except ValueError:
            return None
        place = int(np.searchsorted(self._hashes, wanted))
        return place if place < len(self._hashes) and self._hashes[place] == wanted else None


def regions_of(
    regions: RegionFile | None, names: Sequence[str], sizes: Sequence[Callable[[], tuple[int, int]]]
) -> tuple[Callable[[], tuple[Region, ...] | None], ...] | None:
    """What an example says of pictures of these names; None where there is no file.

    Args:
        sizes: of each, its width and height, as it is upright.
    """
    return None if regions is None else tuple(partial(regions_in, regions, *one) for one in zip(names, sizes, strict=True))


def regions_in(regions: RegionFile, name: str, size: Callable[[], tuple[int, int]]) -> tuple[Region, ...] | None:
    """What is where in a picture; None for one that the file does not name.

    Raises:
        OtherShape: if the file says it of a picture of another shape.
        CorpusError: as :meth:`RegionFile.of`.
    """
    line = regions.line(name)
    if line is None:
        return None
    width, height = line.size
    # told where the picture is loaded
    with suppress(PictureError):
        width, height = size()
    if not same_shape(line.size, (width, height)):
        said = f"{line.size[0]:g} x {line.size[1]:g} pixels, and it has {width} x {height}"
        raise OtherShape(f"{regions.path} says that {shown(name)} has {said}: another shape, and nothing of it can be used.")
    return tuple(region for thing in line.things for region in thing.regions())


def told_of(regions: RegionFile | None) -> dict[str, str]:
    """What a corpus's settings say of its region file: nothing where it has none."""
    return {} if regions is None else {"regions": regions.digest}


def _text_hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _line(value) -> PictureLine:
    if value is DAMAGED:
        raise UnusableRegion(DAMAGED_LINE)
    return read_line(value)
