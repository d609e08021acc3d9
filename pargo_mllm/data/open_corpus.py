"""Whatever lies at a path, as a corpus."""

from __future__ import annotations

import os
from pathlib import Path

from pargo_mllm.data.corpus import Corpus, CorpusError
from pargo_mllm.data.scenes.corpus import NAME, SceneCorpus, Scenes
from pargo_mllm.data.sources.llava import LIST, LlavaCorpus, picture_folder
from pargo_mllm.data.sources.photographs_folder import CAPTION_PROMPT, EVERY_PHOTOGRAPH, PhotographCorpus, PhotographFolder
from pargo_mllm.data.sources.region_file import RegionFile
from pargo_mllm.data.sources.shards import ABOUT, ShardCorpus, is_shard
from pargo_mllm.jobs.work_folder import WORK

FORMS = (
    "a COCO-style folder (images/ and captions.json, perhaps instances.json), a LLaVA list (a .json file of [{id, image, "
    "conversations}], or a .jsonl file with one a line, its pictures in images/ beside it, or beside it, or in image_root; "
    "records of other trainers too), or "
    "webdataset shards (a .tar file or a folder of them, not compressed, with members like 000123.jpg and 000123.txt or "
    "000123.json), or what pargo data prepare made, or scenes for generated ones"
)
# endings of what would have to be unpacked
PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip")


def open_corpus(
    source: str | os.PathLike | Scenes,
    stage: int,
    split: str = "train",
    *,
    held_out: float = 0.0,
    prompt: str = CAPTION_PROMPT,
    index_folder: str | os.PathLike | None = None,
    image_root: str | os.PathLike | None = None,
    views: int = 0,
    seed: int = 0,
    regions: RegionFile | str | os.PathLike | None = None,
) -> Corpus:
    """The corpus that ``source`` names: a path to one of :data:`FORMS`, or generated scenes.

    Args:
        source: a path; or ``scenes``, ``scenes:seed=1,train=5000,held_out=400`` or :class:`Scenes` (a folder of that name:
            ``./scenes``).
        stage: of scenes and of a COCO-style folder, 1 gives captions, 2 questions about what they show. The other forms say
            what they say.
        split: "train" or "test".
        held_out: the share of a LLaVA list or of shards that "test" holds and "train" leaves out. Of a COCO-style folder it is
            always a fifth; of scenes it is a number of their own.
        prompt: what a caption in shards is asked for with.
        index_folder: see :class:`pargo_mllm.data.sources.shards.ShardCorpus`.
        image_root: of a LLaVA list, the folder that pictures are named from, in place of the one beside it; names may then be
            absolute paths too, of files in it or below it.
        views: of a COCO-style folder, ``train_views`` of
            :class:`~pargo_mllm.data.sources.photographs_folder.PhotographFolder`; 0 for each photograph once.
        seed: of those views, and of the questions.
        regions: a file of what is where in the pictures, as ``pargo data patches`` writes it. Without one a COCO-style folder
            says what its instances.json does, and scenes say what they show.

    Raises:
        CorpusError: if nothing of these forms is there, it is damaged, or ``image_root`` is given for another form than a list,
            or ``regions`` for scenes.
        FolderError: for a damaged COCO-style folder.
        ValueError: for another stage or split.
    """
    if stage not in (1, 2):
        raise ValueError(f"stage={stage!r} must be 1 or 2.")
    scenes = Scenes.parse(source) if isinstance(source, str) else source
    if isinstance(scenes, Scenes):
        _refuse(image_root, str(scenes))
        if regions is not None:
            given = regions.path if isinstance(regions, RegionFile) else regions
            raise CorpusError(f"regions={given}: {scenes} know what is where in them; leave it out.")
        return SceneCorpus(scenes, stage, split)
    path = Path(source)  # type: ignore[arg-type]
    try:
        known = regions if regions is None or isinstance(regions, RegionFile) else RegionFile(regions)
        return _at(path, stage, split, held_out, prompt, index_folder, image_root, views, seed, known)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error}") from error


def is_list(path: Path) -> bool:
    """Whether a path is that of a LLaVA list."""
    return path.suffix.lower() in (".json", ".jsonl") and not path.is_dir()


def _at(path: Path, stage, split, held_out, prompt, index_folder, image_root, views, seed, regions) -> Corpus:
    if is_list(path) and os.path.lexists(path):
        if image_root is not None and not Path(image_root).is_dir():
            raise CorpusError(f"image_root={image_root} is no folder; give the one that the names in {path} lead from.")
        images, absolute = image_root or picture_folder(path), image_root is not None
        return LlavaCorpus(path, images, split, held_out, absolute, regions)
    _refuse(image_root, str(path))
    if (path / WORK).is_dir() and not (path / ABOUT).exists():
        raise CorpusError(f"{path} is half made: run the command that makes it again, and it goes on.")
    if os.path.lexists(path / LIST) and not os.path.lexists(path / "captions.json"):
        return LlavaCorpus(path / LIST, path / "images", split, held_out, regions=regions)
    has_captions = os.path.lexists(path / "captions.json")
    has_shards = path.is_dir() and any(map(is_shard, path.iterdir()))
    if has_captions or ((path / "images").is_dir() and not has_shards):
        return PhotographCorpus(PhotographFolder(path, EVERY_PHOTOGRAPH, views, seed=seed), stage, split, regions)
    if has_shards or (is_shard(path) and os.path.lexists(path)):
        return ShardCorpus(path, prompt, split, held_out, index_folder, regions)
    found = "is none of them"
    if not path.exists():
        found = "is a link that leads to nothing" if path.is_symlink() else "does not exist"
    elif not path.is_dir() and not path.is_file():
        found = "is no file and no folder"
    elif path.is_dir() and any(file.suffix.lower() in PACKED for file in path.iterdir()):
        found = "holds compressed files alone, and samples are read from their places: unpack them"
    elif path.suffix.lower() in PACKED:
        found = "is compressed, and samples are read from their places: unpack it"
    if str(path) == NAME:
        # a path forgets the "./" that told the folder from the generated scenes
        raise CorpusError(f"the folder ./{NAME} {found}; write {NAME} without ./ for generated scenes. Data must be {FORMS}.")
    raise CorpusError(f"{path} {found}; data must be {FORMS}.")


def _refuse(image_root: str | os.PathLike | None, source: str) -> None:
    if image_root is not None:
        raise CorpusError(f"image_root={image_root} says where a LLaVA list has its pictures; {source} is none: leave it out.")
