"""Whatever lies at a path, as a corpus."""

from __future__ import annotations

import os
from pathlib import Path

from pargo_mllm.data.corpus import Corpus, CorpusError
from pargo_mllm.data.scenes.corpus import NAME, SceneCorpus, Scenes
from pargo_mllm.data.sources.llava import LlavaCorpus
from pargo_mllm.data.sources.photographs_folder import CAPTION_PROMPT, EVERY_PHOTOGRAPH, PhotographCorpus, PhotographFolder
from pargo_mllm.data.sources.shards import ShardCorpus

FORMS = (
    "a COCO-style folder (images/ and captions.json, perhaps instances.json), a LLaVA list (a .json file of [{id, image, "
    "conversations}], its pictures in images/ beside it, or beside it), or webdataset shards (a .tar file or a folder of them, "
    "with members like 000123.jpg and 000123.txt or 000123.json), or scenes for generated ones"
)


def open_corpus(
    source: str | os.PathLike | Scenes,
    stage: int,
    split: str = "train",
    *,
    held_out: float = 0.0,
    prompt: str = CAPTION_PROMPT,
    index_folder: str | os.PathLike | None = None,
    views: int = 0,
    seed: int = 0,
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
        views: of a COCO-style folder, ``train_views`` of
            :class:`~pargo_mllm.data.sources.photographs_folder.PhotographFolder`; 0 for each photograph once.
        seed: of those views, and of the questions.

    Raises:
        CorpusError: if nothing of these forms is there, or it is damaged.
        FolderError: for a damaged COCO-style folder.
        ValueError: for another stage or split.
    """
    if stage not in (1, 2):
        raise ValueError(f"stage={stage!r} must be 1 or 2.")
    scenes = Scenes.parse(source) if isinstance(source, str) else source
    if isinstance(scenes, Scenes):
        return SceneCorpus(scenes, stage, split)
    path = Path(source)  # type: ignore[arg-type]
    is_coco, has_shards = (path / "captions.json").is_file(), any(path.glob("*.tar"))
    if is_coco or ((path / "images").is_dir() and not has_shards):
        return PhotographCorpus(PhotographFolder(path, EVERY_PHOTOGRAPH, views, seed=seed), stage, split)
    if has_shards or (path.suffix == ".tar" and path.is_file()):
        return ShardCorpus(path, prompt, split, held_out, index_folder)
    if path.suffix == ".json" and path.is_file():
        images = path.parent / "images"
        return LlavaCorpus(path, images if images.is_dir() else path.parent, split, held_out)
    found = "does not exist" if not path.exists() else "is none of them"
    if str(path) == NAME:
        # a path forgets the "./" that told the folder from the generated scenes
        raise CorpusError(f"the folder ./{NAME} {found}; write {NAME} without ./ for generated scenes. Data must be {FORMS}.")
    raise CorpusError(f"{path} {found}; data must be {FORMS}.")
