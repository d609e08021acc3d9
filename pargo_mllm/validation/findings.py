"""What can be found in training data: kinds, how much each matters, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

ERROR, WARNING, NOTE = SEVERITIES = ("error", "warning", "note")


class Kind(NamedTuple):
    """A kind of finding.

    Args:
        severity: :data:`ERROR` if the record is skipped or teaches something wrong; :data:`WARNING` if it probably is not what
            was meant; :data:`NOTE` otherwise.
        what: what is so, in the plural.
        do: what to do about it.
    """

    severity: str
    what: str
    do: str = ""


_REWRITE = "write the file anew, as one JSON list or as JSON Lines"
_TURNS = "make the turns alternate from human to gpt, the last from gpt"

_KINDS = {
    # the file
    "file_broken": Kind(ERROR, "files whose JSON breaks off; nothing behind it was looked at, training refuses them", _REWRITE),
    "not_a_list": Kind(ERROR, "files that hold no list of records", _REWRITE),
    "lines_in_json": Kind(ERROR, "JSON Lines in a file that ends with .json", "rename it to .jsonl"),
    "list_in_lines": Kind(ERROR, "one JSON list in a file that ends with .jsonl", "rename it to .json"),
    "trailing": Kind(ERROR, "files in which something follows the list's end", "cut it off"),
    "no_record": Kind(ERROR, "files without a record", ""),
    "byte_order_mark": Kind(NOTE, "files that begin with a byte order mark", "training reads them; other tools may not"),
    "carriage_returns": Kind(NOTE, "files with line ends of Windows", "training reads them; other tools may not"),
    "several_forms": Kind(NOTE, "files whose records are of several forms", "pargo data convert makes them one"),
    "image_forms": Kind(NOTE, "files in which some images are a name and some a list of names", ""),
    # a row
    "line_broken": Kind(ERROR, "lines that are no JSON", _REWRITE),
    "invalid_utf8": Kind(ERROR, "records that are no UTF-8", "save the file as UTF-8"),
    "not_finite": Kind(WARNING, "records with NaN or an infinite number, which is no JSON", "write null, or leave the key out"),
    "duplicate_key": Kind(WARNING, "records with a key twice, of which the last counts", "keep one"),
    "not_an_object": Kind(ERROR, "records that are no object", "a record is {id, image, conversations}"),
    "unusable": Kind(ERROR, "records that training skips for another reason", ""),
    # keys
    "misspelt_key": Kind(ERROR, "keys that look misspelt, and mean nothing as they are", "spell them as training reads them"),
    "misspelt_read": Kind(WARNING, "misspelt keys that training reads all the same", "other trainers do not: spell them right"),
    "unknown_key": Kind(NOTE, "keys that training does not read", ""),
    "id_number": Kind(NOTE, "ids that are numbers", "some tools take an id for a text alone"),
    "id_wrong": Kind(ERROR, "ids that are neither text nor number", "write a text"),
    "id_twice": Kind(WARNING, "records whose id another one has, and that differ from it", "give each its own"),
    # turns
    "no_turns": Kind(ERROR, "records without conversations: [{from, value}]", "give them turns"),
    "role_unknown": Kind(ERROR, "turns from others than human, gpt and, in front, system", _TURNS),
    "role_order": Kind(ERROR, "turns out of order", _TURNS),
    "no_answer": Kind(ERROR, "conversations that end with a question", _TURNS),
    "empty_turn": Kind(ERROR, "questions and system turns that say nothing", "leave the record out, or say something"),
    "empty_answer": Kind(ERROR, "answers that say nothing", "leave the record out, or answer"),
    "half_character": Kind(ERROR, "texts with half a character", "the text was cut in the middle of one: cut it elsewhere"),
    "control_character": Kind(WARNING, "texts with control characters", "remove them; no model should learn to write them"),
    "image_in_answer": Kind(WARNING, "answers that hold <image>", "is it a text, or should a question show the picture?"),
    "image_marks": Kind(ERROR, "conversations with more or fewer <image> than pictures", "write <image> once for each picture"),
    "system_picture": Kind(ERROR, "system turns that show a picture", "show it in a question"),
    "other_media": Kind(ERROR, "records that show a video or hold sound", "only pictures and text are read"),
    # image names
    "image_null": Kind(NOTE, "images that are null or an empty list: the record is of text alone", ""),
    "images_text": Kind(NOTE, "images (in the plural) that are one name", "other trainers count its characters: write [name]"),
    "image_empty": Kind(WARNING, "image names that are empty: none is shown", "name the picture, or leave the key out"),
    "image_type": Kind(ERROR, "images that are neither a name nor a list of names", "write a name, or a list of names"),
    "image_both": Kind(ERROR, "records with both image and images", "keep one"),
    "too_many_pictures": Kind(ERROR, "records with more than 255 pictures", ""),
    "name_leads_out": Kind(ERROR, "image names that lead out of the folder, or that no file can have", "name files below it"),
    "name_absolute": Kind(ERROR, "image names that are absolute paths", "--image-root DIR says where they may lead"),
    "link_leads_out": Kind(WARNING, "pictures that are links out of the folder; training follows them", "copy the files"),
    "image_address": Kind(ERROR, "images that are addresses on the web; none is fetched", "download them, and name the files"),
    # pictures
    "picture_missing": Kind(ERROR, "pictures that are not there", "--image-root DIR says where a list has them"),
    "picture_special": Kind(ERROR, "pictures that are folders, pipes or devices", ""),
    "picture_empty": Kind(ERROR, "pictures of zero bytes", "fetch or copy them again"),
    "picture_broken": Kind(ERROR, "pictures that cannot be read", "fetch or copy them again"),
    "picture_truncated": Kind(ERROR, "pictures that end early", "fetch or copy them again"),
    "picture_huge": Kind(ERROR, "pictures of more pixels than are read", "scale them down"),
    "picture_small": Kind(ERROR, "pictures of fewer pixels than are read", "leave the record out"),
    "picture_animated": Kind(WARNING, "pictures of several frames, of which the first is taken", "keep one frame"),
    "wrong_extension": Kind(WARNING, "pictures whose names end like another kind of file", "rename them"),
    "mislabelled": Kind(WARNING, "pictures of another format than their names say", "rename them"),
    # boxes
    "frame_unknown": Kind(ERROR, "frames that are none", "a record's frame is picture, pixels, padded or thousand"),
    "size_differs": Kind(WARNING, "records whose width and height are not their picture's", "is it the right picture?"),
    "box_reversed": Kind(ERROR, "boxes whose corners are the wrong way round", "write [x1,y1,x2,y2], left upper corner first"),
    "box_outside": Kind(ERROR, "boxes that lead out of their picture", "clip them, or find out what their numbers count"),
    "box_frame": Kind(ERROR, "boxes whose numbers are of another frame than theirs", "declare the right one, or convert them"),
    "box_padding": Kind(ERROR, "boxes in the padding of the square, where no picture is", "declare the right frame"),
    "box_flat": Kind(NOTE, "boxes without extent", ""),
    "box_unlikely": Kind(NOTE, "lists of four whole numbers that can be a box in no frame", ""),
    "frames_mixed": Kind(
        WARNING, "data whose boxes are in several frames; training reads the numbers as they are", "convert them"
    ),
    "set_frame": Kind(WARNING, "sets whose boxes fit another frame better than their own", "compare a few with pictures"),
    # of a model
    "too_long": Kind(ERROR, "records of more tokens than are trained on", "shorten them, or raise --max-length"),
    "not_encodable": Kind(ERROR, "records that the model's template refuses", ""),
    # of a whole set
    "duplicate_record": Kind(WARNING, "records that repeat another: same pictures, same turns", "keep one"),
    "duplicate_picture": Kind(WARNING, "picture files with the content of another", "keep one"),
    "near_picture": Kind(WARNING, "pictures that look like another", "keep one"),
    "near_text": Kind(WARNING, "answers that nearly repeat another", "keep one"),
    "leak": Kind(ERROR, "questions of an evaluation with their answers, about the same picture", "leave them out"),
    "leak_text": Kind(WARNING, "questions of an evaluation with their answers, about another picture", "are they the same?"),
    "leak_picture": Kind(WARNING, "pictures of an evaluation", "leave them out, or do not evaluate on them"),
    # of shards and COCO-style folders
    "shard_broken": Kind(ERROR, "shards that cannot be read", "pack them again; training refuses the whole set"),
    "entry_left_out": Kind(ERROR, "entries that training leaves out", ""),
    "extra_left_out": Kind(NOTE, "files, members and objects that training does not use", ""),
}

#: every kind by its name, in the order of a report
KINDS: Mapping[str, Kind] = MappingProxyType(_KINDS)


@dataclass(frozen=True)
class PicturePlace:
    """Where the content of a picture lies: a file below a folder, or bytes of a shard.

    Args:
        folder: what the file must lie in to be shown.
        file: the picture's file, or the shard.
        place: of a shard, (offset, bytes).
    """

    folder: str
    file: str
    place: tuple[int, int] | None = None


@dataclass(frozen=True)
class Finding:
    """What is wrong, and where.

    Args:
        kind: of :data:`KINDS`.
        detail: what is so here, in one line.
        file: as it was named.
        number: of the record in its file, from 0; None for the file itself.
        line: where the record begins, from 1; None where the file has none.
        byte: where it begins, from 0.
        id: of the record, or the sample's key.
        picture: to show.
        count: how many entries this stands for, where they have no places of their own.
    """

    kind: str
    detail: str
    file: str = ""
    number: int | None = None
    line: int | None = None
    byte: int | None = None
    id: str | None = None
    picture: PicturePlace | None = None
    count: int = 1

    @property
    def severity(self) -> str:
        """Of its kind."""
        return KINDS[self.kind].severity

    def behind(self, records: int, lines: int) -> Finding:
        """The same where its piece begins behind so many records and lines."""
        return replace(
            self,
            number=None if self.number is None else self.number + records,
            line=None if self.line is None else self.line + lines,
        )

    def told(self) -> dict[str, Any]:
        """As JSON."""
        said = {key: value for key, value in asdict(self).items() if value is not None and key != "picture"}
        return {**said, "severity": self.severity}

    def where(self) -> str:
        """The place, for people."""
        pieces = [self.file]
        if self.line is not None:
            pieces.append(f"line {self.line:,}")
        if self.number is not None:
            pieces.append(f"record {self.number:,}")
        return ", ".join(pieces) + (f" ({self.id})" if self.id is not None else "")
