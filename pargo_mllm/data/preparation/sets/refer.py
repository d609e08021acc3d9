"""RefCOCO, RefCOCO+ and RefCOCOg: phrases that tell one object of a COCO photograph from all others.

Two forms are read: MDETR's ``finetune_refcoco_train.json``, a COCO file with a phrase a picture; and the original
``refs(unc).p`` (RefCOCOg's: ``refs(umd).p``) beside ``instances.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pargo_mllm.data.preparation.data_set import INSTRUCTIONS, DataSet, Need, Options, PreparationError
from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped
from pargo_mllm.data.preparation.fields import line, numbers, text, whole
from pargo_mllm.data.preparation.instructions import AGAIN, below
from pargo_mllm.data.preparation.official_files import OfficialFiles
from pargo_mllm.data.preparation.regions import Region, region_entry
from pargo_mllm.data.sources.plain_pickle import plain_pickle

PHOTOGRAPHS = "train2014"
NO_PHOTOGRAPH = "phrases on a photograph that the file does not name"
NO_ANNOTATION = "phrases on an object that the file does not have"
NO_SUCH_PHOTOGRAPH = "boxes on a photograph that the file does not name"
SEVERAL = "phrases with several boxes"

Size = tuple[int, int]


def entries(name: str, describe: str, files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
    """A record a phrase, in the order of the file."""
    folder = files.folder(PHOTOGRAPHS, f"images/{PHOTOGRAPHS}", "images")
    mdetr = f"finetune_{name}_train.json"
    refs = [f"{place}refs({by}).p" for place in (f"{name}/", "") for by in ("unc", "umd", "google")]
    file = files.path(mdetr, f"mdetr_annotations/{mdetr}", *refs)
    shown = file.relative_to(files.root).as_posix()
    seen = set()
    for region in (_mdetr if file.suffix == ".json" else _refs)(files, shown, partial(_photograph, folder)):
        if isinstance(region, Skipped):
            yield region
        elif region.id in seen:
            yield Skipped(region.id, AGAIN)
        else:
            seen.add(region.id)
            yield region_entry(region, name, describe, options)


def _photograph(folder: str, name: str) -> Picture:
    return Picture.file(below(folder, name), f"{PHOTOGRAPHS}/{name}")


def _mdetr(files: OfficialFiles, name: str, photograph: Callable[[str], Picture]) -> Iterator[Region | Skipped]:
    boxes: dict[str, list[Any]] = {}
    known: set[str] = set()
    for row in files.listed("annotations", name):
        boxes.setdefault(text(row, "image_id"), []).append(row.get("bbox") if isinstance(row, dict) else None)
    for row in files.listed("images", name):
        id, file, own = text(row, "id", "?"), text(row, "file_name"), boxes.get(text(row, "id", "?"), [])
        known.add(id)
        if not file:
            yield Skipped(id, NO_PHOTOGRAPH)
        elif len(own) != 1:
            yield Skipped(id, SEVERAL if own else NO_ANNOTATION)
        else:
            size = (whole(row, "width"), whole(row, "height"))
            yield Region(id, line(row, "caption"), numbers(own[0]), size, photograph(file))
    for id, own in boxes.items():
        yield from (Skipped(id or "?", NO_SUCH_PHOTOGRAPH) for _ in (own if id not in known else ()))


def _refs(files: OfficialFiles, name: str, photograph: Callable[[str], Picture]) -> Iterator[Region | Skipped]:
    refs = plain_pickle(files.path(name))
    if not isinstance(refs, list):
        raise PreparationError(f"{files.root / name} holds no list of objects that are referred to.")
    beside = f"{name.rpartition('/')[0]}/instances.json".lstrip("/")
    boxes = {text(row, "id"): numbers(row.get("bbox")) for row in files.listed("annotations", beside) if text(row, "id")}
    images: dict[str, tuple[str, Size]] = {
        text(row, "id"): (text(row, "file_name"), (whole(row, "width"), whole(row, "height")))
        for row in files.listed("images", beside)
        if text(row, "id")
    }
    for ref in refs:
        # val, testA, testB are what is evaluated: they are no entries
        if isinstance(ref, dict) and text(ref, "split") not in ("", "train"):
            continue
        sentences = ref.get("sentences") if isinstance(ref, dict) else None
        if not isinstance(sentences, list) or text(ref, "split") != "train":
            yield Skipped(text(ref, "ref_id", "?"), "objects without sentences, or of no split")
            continue
        file, size = images.get(text(ref, "image_id"), ("", (0, 0)))
        for sentence in sentences:
            id, box = text(sentence, "sent_id", "?"), boxes.get(text(ref, "ann_id"))
            phrase = line(sentence, "sent") or line(sentence, "raw")
            if not file or box is None:
                yield Skipped(id, NO_ANNOTATION if file else NO_PHOTOGRAPH)
            else:
                yield Region(id, phrase, box, size, photograph(file))


def _set(name: str, title: str, about: str, by: str, phrases: str, describe: str) -> DataSet:
    home = "https://github.com/ashkamath/mdetr (or https://github.com/lichengunc/refer)"
    return DataSet(
        name=name,
        title=title,
        kind=INSTRUCTIONS,
        about=about,
        needs=(
            Need(f"finetune_{name}_train.json", f"phrases with boxes (or refs({by}).p with instances.json)", home),
            Need("train2014/", "the photographs", "https://cocodataset.org/#download"),
        ),
        licence="that of the phrases is on their home's page; each photograph has its own Flickr licence",
        size=f"{phrases} phrases on photographs of COCO, 13 GB",
        entries=partial(entries, name, describe),
        weight=0.103,
        has_boxes=True,
    )


_DESCRIBE = "Please provide a description of this region: {box}. "
ALL = [
    _set(
        "refcoco",
        "RefCOCO",
        "a short phrase that tells an object from others, and its box, either asked for by the other",
        "unc",
        "120,624",
        f"{_DESCRIBE}A few words will do, and they may say where it is.",
    ),
    _set(
        "refcoco+",
        "RefCOCO+",
        "the same in phrases that do not say where the object is",
        "unc",
        "120,191",
        f"{_DESCRIBE}A few words will do; say how it looks, not where it is.",
    ),
    _set(
        "refcocog",
        "RefCOCOg",
        "the same in longer phrases",
        "umd",
        "80,512",
        f"{_DESCRIBE}Be so detailed that nothing else can be meant.",
    ),
]
