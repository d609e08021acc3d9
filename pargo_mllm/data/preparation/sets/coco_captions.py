"""COCO captions: five short captions of each photograph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pargo_mllm.data.preparation.captions import SILENT
from pargo_mllm.data.preparation.data_set import COARSE, DataSet, Need, Options
from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped, turns
from pargo_mllm.data.preparation.fields import of_list, of_object, text, whole
from pargo_mllm.data.preparation.official_files import OfficialFiles
from pargo_mllm.data.sources.photographs_folder import CAPTION_PROMPT


def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
    """A record a caption, in the order of the file."""
    split = options.split or "train2017"
    name = f"annotations/captions_{split}.json"
    told = of_object(files.json(name, f"captions_{split}.json"), name)
    folder = files.folder(split, f"images/{split}", "images")
    images = {text(image, "id"): image for image in of_list(told, "images", name) if text(image, "id")}
    for caption in of_list(told, "annotations", name):
        yield _entry(caption, images, folder)


def _entry(caption: Any, images: dict[str, Any], folder: str) -> Entry | Skipped:
    id, said = str(text(caption, "id", "?")), text(caption, "caption")
    image = images.get(text(caption, "image_id"))
    file = text(image, "file_name")
    if not said.strip():
        return Skipped(id, SILENT)
    if not file:
        return Skipped(id, "captions of a photograph that the file does not name")
    width, height = whole(image, "width"), whole(image, "height")
    size = (width, height) if width and height else None
    picture = Picture.file(f"{folder}/{file}", f"{folder.rpartition('/')[2]}/{file}")
    return Entry(id, picture, turns([(CAPTION_PROMPT, said.strip())]), size)


ALL = [
    DataSet(
        name="coco_captions",
        title="COCO Captions 2017",
        kind=COARSE,
        about="five captions of each of 118,287 photographs",
        needs=(
            Need("annotations/captions_train2017.json", "the captions", "https://cocodataset.org/#download"),
            Need("train2017/", "the photographs", "https://cocodataset.org/#download"),
        ),
        licence="captions CC BY 4.0; each photograph has its own Flickr licence, several not for commercial use",
        size="591,753 captions of 118,287 photographs, 19 GB",
        entries=entries,
        splits=("train2017", "val2017", "train2014", "val2014"),
    )
]
