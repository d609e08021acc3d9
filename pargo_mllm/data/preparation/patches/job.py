"""Writing a file of what is where in pictures, of what another file says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from pargo_mllm.data.corpus import CorpusError, counted
from pargo_mllm.data.frames import convert
from pargo_mllm.data.pictures import PictureError, turned_size
from pargo_mllm.data.preparation.fields import numbers
from pargo_mllm.data.preparation.patches.pictures import SEVERAL, Pictures
from pargo_mllm.data.preparation.patches.told import Told
from pargo_mllm.data.sources.json_rows import as_said, as_text
from pargo_mllm.data.sources.opening import read_whole
from pargo_mllm.data.sources.region_lines import MAX_NAMES, Thing, clean_name, read_things, same_shape, write_line
from pargo_mllm.data.sources.upright import quarter, turned
from pargo_mllm.files import whole_file

UNKNOWN = "regions of pictures that are not there"
AMBIGUOUS = "regions of pictures whose name several have"
AGAIN = "regions of a picture of which was said already"
UNREADABLE = "regions of pictures that cannot be read"
OTHER_SHAPE = "regions of pictures that have another shape than the file says"
UNSURE = "detections below --min-score"
# bytes of a file of synonyms
_MAX_SYNONYMS = 2**24


@dataclass
class Labelling:
    """What became of a file: ``entries = used + skipped`` regions, in so many pictures.

    Args:
        names: how often regions are called so, by the first name of each label.
    """

    pictures: int = 0
    entries: int = 0
    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)


def label_patches(
    told: Iterable[Told],
    pictures: Pictures,
    out: Path,
    *,
    synonyms: Mapping[str, tuple[str, ...]] | None = None,
    min_score: float = 0.0,
    cut: bool = False,
) -> Labelling:
    """Write ``out``, a line a picture; it is there when it is complete.

    Args:
        told: what is said of each picture.
        synonyms: other names, by a name in small letters.
        min_score: detections that are less sure are left out.
        cut: boxes that leave their picture are cut off there, as those of a detector may; others are left out.

    Raises:
        CorpusError: if ``out`` is there, cannot be written, or nothing would be in it.
    """
    if out.exists() or out.is_symlink():
        raise CorpusError(f"{out} is there already; remove it, or give another name.")
    done = Labelling()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as aside, open(aside, "w", encoding="utf-8") as written:
            for line in _lines(told, pictures, done, synonyms or {}, min_score, cut):
                written.write(f"{json.dumps(line, ensure_ascii=False)}\n")
            if not done.used:
                raise CorpusError(f"of {done.entries:,} regions none can be used{counted(done.skipped)}.")
    except OSError as error:
        raise CorpusError(f"{out} cannot be written: {error.strerror or error}.") from error
    return done


class _Members(list):
    """An object's names and values, those that stand in it twice too."""


def read_synonyms(file: Path) -> dict[str, tuple[str, ...]]:
    """Other names, by a name in small letters, of a JSON object ``{"bicycle": ["bike", "cycle"]}``.

    Raises:
        CorpusError: if it is none.
    """
    try:
        told = json.loads(as_text(read_whole(file, _MAX_SYNONYMS)), object_pairs_hook=_Members)
    except (OSError, ValueError, RecursionError) as error:
        raise CorpusError(f"{file} cannot be read as JSON: {as_said(error)}") from error
    if not isinstance(told, _Members):
        raise CorpusError(f'{file} must hold an object of names with lists of others: {{"bicycle": ["bike"]}}.')
    found: dict[str, tuple[str, ...]] = {}
    for key, values in told:
        names = [clean_name(name) for name in values] if isinstance(values, list) else [None]
        name = clean_name(key)
        if name is None or None in names or len(names) >= MAX_NAMES:
            raise CorpusError(f"{file}: {key[:80]!r} must be a name, with a list of fewer than {MAX_NAMES} other names.")
        if name.lower() in found:
            raise CorpusError(f"{file}: {key[:80]!r} stands in it twice.")
        found[name.lower()] = tuple(name for name in names if name is not None)
    return found


def _lines(
    told: Iterable[Told],
    pictures: Pictures,
    done: Labelling,
    synonyms: Mapping[str, tuple[str, ...]],
    min_score: float,
    cut: bool,
) -> Iterator[dict[str, Any]]:
    seen = set()
    for one in tqdm(told, desc="regions of pictures", unit="picture", delay=2, dynamic_ncols=True):
        done.entries += len(one.regions)
        image = None if one.problem else pictures.find(one)
        problem = one.problem or (UNKNOWN if image is None else AMBIGUOUS if image == SEVERAL else None)
        if problem is None and image in seen:
            problem = AGAIN
        upright = None
        if problem is None and image is not None:
            seen.add(image)
            upright, turn, problem = _lies(one, pictures, image)
        if problem is not None or image is None or upright is None:
            done.skipped.update(region if isinstance(region, str) else problem or UNKNOWN for region in one.regions)
            continue
        size = one.size or upright
        things = _things(one.regions, size, done.skipped, synonyms, min_score, cut)
        if turn is not None:
            things = [Thing(thing.labels, turned(thing.shape, turn), thing.score) for thing in things]
            size = (size[1], size[0])
        if things:
            done.pictures, done.used = done.pictures + 1, done.used + len(things)
            done.names.update(names[0] for thing in things for names in thing.labels)
            yield write_line(image, size, tuple(things))


def _lies(one: Told, pictures: Pictures, image: str) -> tuple[tuple[float, float] | None, int | None, str | None]:
    """The upright size of a picture, the turn that brings what is said of it there, and why nothing can be."""
    try:
        stored, orientation = pictures.stored(image)
    except (PictureError, CorpusError, OSError):
        return None, None, UNREADABLE
    width, height = turned_size(stored, orientation)
    upright = (float(width), float(height))
    if one.size is None:
        return upright, None, None
    turn = quarter(one.size, stored, orientation)
    if not same_shape((one.size[1], one.size[0]) if turn is not None else one.size, upright):
        return None, None, OTHER_SHAPE
    return upright, turn, None


def _things(
    regions: list[dict[str, Any] | str],
    size: tuple[float, float],
    skipped: Counter[str],
    synonyms: Mapping[str, tuple[str, ...]],
    min_score: float,
    cut: bool,
) -> list[Thing]:
    usable = []
    for region in regions:
        if isinstance(region, str):
            skipped[region] += 1
        else:
            usable.append(_called(_placed(region, size, cut), synonyms))
    things, left_out = read_things(usable, size)
    skipped.update(left_out)
    sure = [thing for thing in things if thing.score >= min_score]
    skipped.update({UNSURE: len(things) - len(sure)} if len(sure) < len(things) else {})
    return sure


def _placed(region: dict[str, Any], size: tuple[float, float], cut: bool) -> dict[str, Any]:
    """A region with its box in pixels of ``size``."""
    if cut and isinstance(region.get("polygons"), list):
        return {**region, "polygons": [_cut(polygon, size) for polygon in region["polygons"]]}
    box = region.get("box")
    if box is None:
        return region
    x1, y1, x2, y2 = convert(box, region.get("frame", "pixels"), "pixels", size)
    if cut:
        width, height = size
        x1, x2 = (min(max(x, 0.0), width) for x in (x1, x2))
        y1, y2 = (min(max(y, 0.0), height) for y in (y1, y2))
    return {**{key: value for key, value in region.items() if key != "frame"}, "box": [x1, y1, x2, y2]}


def _cut(polygon: Any, size: tuple[float, float]) -> Any:
    """What of a polygon lies in the picture, one border after the other; what is no polygon, or lies outside, as it is."""
    told = numbers(polygon)
    points = list(zip(told[::2], told[1::2], strict=False))
    for axis, border, sign in ((0, 0.0, 1), (0, size[0], -1), (1, 0.0, 1), (1, size[1], -1)):
        kept: list[tuple[float, float]] = []
        for last, point in zip(points[-1:] + points[:-1], points, strict=True):
            before, here = sign * (last[axis] - border), sign * (point[axis] - border)
            if min(before, here) < 0 < max(before, here):
                share = before / (before - here)
                kept.append((last[0] + share * (point[0] - last[0]), last[1] + share * (point[1] - last[1])))
            if here >= 0:
                kept.append(point)
        points = kept
    return [one for point in points for one in point] if len(told) % 2 == 0 and len(points) >= 3 else polygon


def _called(region: dict[str, Any], synonyms: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """A region with each label's other names."""
    labels = []
    for name in region["labels"]:
        others = synonyms.get(" ".join(name.lower().split()), ()) if isinstance(name, str) else ()
        labels.append([name, *others] if others else name)
    return {**region, "labels": labels}
