"""Which members of a tar shard make a sample, from their names alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import Image

MAX_PICTURES = 32
CAPTIONS = ("txt", "text", "caption")
_KNOWN = (
    *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "avif", "avifs", "bmp", "dib", "gif", "tif", "tiff"),
    *("jp2", "j2k", "jpf", "jpx", "jpc", "j2c", "ppm", "pgm", "pbm", "pnm", "tga", "ico", "heic", "heif"),
)
# an older Pillow reads no AVIF, and HEIF takes a plugin
PICTURES = tuple(end for end in _KNOWN if f".{end}" in Image.registered_extensions())
# why samples are left out
IRREGULAR = "samples with a member that is no regular file (a link, a sparse file)"
AMBIGUOUS = "samples whose pictures could be of two of them (a.0.jpg beside texts of a and of a.0)"
TWICE = "samples with two members of one name, or two that could be the same"
MANY = f"samples with more than {MAX_PICTURES} pictures"
NO_TEXT = "samples without a caption or conversations"
NO_PICTURE = "samples with a caption and no picture"
SEVERAL = "samples with a caption and several pictures"
# why members are
FOLDER = "folders"
HIDDEN = "hidden files"
SPECIAL = "links and special files"
NO_EXTENSION = "members without an extension"
OTHER = "members with other extensions"
EXTENSION = "members that end with .{}, which is not read"
UNUSED = "members of samples that are not used"
OF_SAMPLES = (IRREGULAR, AMBIGUOUS, TWICE, MANY, NO_TEXT, NO_PICTURE, SEVERAL)
REASONS = (*OF_SAMPLES, FOLDER, HIDDEN, SPECIAL, NO_EXTENSION, OTHER, EXTENSION, UNUSED)
# what an index depends on besides its shard: another number for other rules
RULES = f"1 {MAX_PICTURES} {CAPTIONS} {PICTURES} {REASONS}"
_NUMBERED = re.compile(r"(.+)\.([0-9]{1,9})", re.DOTALL)
# characters of an extension that a reason names
_MAX_EXTENSION = 16
Place = tuple[int, int]


class Member(NamedTuple):
    """A member of a tar: its name, and where its content lies, (offset, bytes); None for what is no regular file."""

    name: str
    place: Place | None
    is_folder: bool = False

    @property
    def run(self) -> str:
        """Its name up to the first dot behind the folder: members of a sample have the same, and follow each other."""
        folder, slash, file = self.name.rpartition("/")
        return folder + slash + file.partition(".")[0]


class Sample(NamedTuple):
    """A sample that can be used: where its texts and its pictures, in their order, lie; (0, 0) for a text that it lacks."""

    key: str
    json: Place
    txt: Place
    pictures: list[Place]
    members: int


class LeftOut(NamedTuple):
    """Members that are left out for one of :data:`REASONS`: those of a sample, or some that are of none."""

    reason: str
    members: int
    extension: str = ""

    @property
    def is_sample(self) -> bool:
        """Whether it is a sample, and not members that are of none."""
        return self.reason in OF_SAMPLES

    @property
    def told(self) -> str:
        """The reason, with the extension where it is one."""
        return self.reason.format(self.extension) if self.reason == EXTENSION else self.reason


@dataclass(slots=True)
class _Found:
    """What was found of a sample: the places of members of each kind; pictures with their numbers."""

    json: list[Place | None] = field(default_factory=list)
    captions: list[Place | None] = field(default_factory=list)
    pictures: list[tuple[int, Place | None]] = field(default_factory=list)
    is_ambiguous: bool = False


def samples_of(run: Iterable[Member]) -> Iterator[Sample | LeftOut]:
    """The samples of a run of members; each member is in one of them, or left out with a reason.

    A member's key is its name without its extension. ``a.0.jpg`` is a picture of ``a.0`` if there is a text of that key, and
    picture 0 of ``a`` if not.
    """
    texts: list[tuple[str, str, Place | None]] = []
    pictures: list[tuple[str, Place | None]] = []
    left: Counter[tuple[str, str]] = Counter()
    for member in run:
        key, dot, extension = member.name.rpartition(".")
        extension = extension.lower()
        reason = _why_not(member, bool(dot), extension)
        if reason is not None:
            left[reason, extension if reason == EXTENSION else ""] += 1
        elif extension in PICTURES:
            pictures.append((key, member.place))
        else:
            texts.append((key, extension, member.place))
    yield from (LeftOut(reason, members, extension) for (reason, extension), members in left.items())
    found: dict[str, _Found] = {}
    for key, extension, place in texts:
        of_key = found.setdefault(key, _Found())
        (of_key.json if extension == "json" else of_key.captions).append(place)
    told = set(found)
    for key, place in pictures:
        matched = _NUMBERED.fullmatch(key)
        shared = matched[1] if matched and not matched[1].endswith("/") else None
        if shared is not None and key in told and shared in told:
            found[key].is_ambiguous = found[shared].is_ambiguous = True
        if matched is None or shared is None or key in told:
            found.setdefault(key, _Found()).pictures.append((-1, place))
        else:
            found.setdefault(shared, _Found()).pictures.append((int(matched[2]), place))
    for key, of_key in found.items():
        yield _sample(key, of_key)


def _why_not(member: Member, has_dot: bool, extension: str) -> str | None:
    """Why a member is of no sample, or None."""
    file = member.name.rpartition("/")[2]
    if member.is_folder:
        return FOLDER
    if file.startswith("."):
        return HIDDEN
    if extension == "json" or extension in CAPTIONS or extension in PICTURES:
        return None
    if member.place is None:
        return SPECIAL
    if not has_dot or "/" in extension or not extension:
        return NO_EXTENSION
    if len(extension) > _MAX_EXTENSION or not (extension.isascii() and extension.isprintable()):
        return OTHER
    return EXTENSION


def _sample(key: str, found: _Found) -> Sample | LeftOut:
    texts = [*found.json, *found.captions]
    members = len(texts) + len(found.pictures)
    reason = _problem(found)
    if reason is not None:
        return LeftOut(reason, members)
    json, txt = (places[0] if places else None for places in (found.json, found.captions))
    pictures = [place for _, place in sorted(found.pictures) if place is not None]
    return Sample(key, json or (0, 0), txt or (0, 0), pictures, members)


def _problem(found: _Found) -> str | None:
    """Why a sample cannot be used, or None."""
    numbers = [number for number, _ in found.pictures]
    if None in (*found.json, *found.captions, *(place for _, place in found.pictures)):
        return IRREGULAR
    if found.is_ambiguous:
        return AMBIGUOUS
    if len(found.json) > 1 or len(found.captions) > 1 or len(set(numbers)) < len(numbers):
        return TWICE
    if len(found.pictures) > MAX_PICTURES:
        return MANY
    if not found.json and not found.captions:
        return NO_TEXT
    if not found.json and not found.pictures:
        return NO_PICTURE
    if not found.json and len(found.pictures) > 1:
        return SEVERAL
    return None
